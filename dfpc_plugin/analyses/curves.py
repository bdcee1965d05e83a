"""Written-out functions of one tensor, such as `x * x.sigmoid()` or `torch.where(x > 0, x, 0.2 * x)`.

Rules see one operator at a time and treat the factors of a product, or the terms of a sum, as different tensors. If all of
them are functions of the same tensor's elements, the result is such a function, too: a *curve* over that tensor. Its bound is
its Lipschitz constant times the tensor's; its mean and variance are integrals over the tensor's distribution. So an activation
counts the same whether it is called by name or written out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.tracing.calls import Call
from dfpc_plugin.tracing.proxy import Proxy, shape_of, value_of
from dfpc_plugin.tracing.tree import map_tensors

_KINDS = ("pointwise", "combines")
_NEAR, _FAR, _POINTS = 8.0, 64.0, 16001
_DEEPEST = 16
"""Longer chains are treated operator by operator."""


@dataclass(frozen=True)
class Curve:
    """A function of the elements of the tensor `root`, at its `version`, made of `depth` operators."""

    root: Proxy
    version: int
    function: Callable[[Tensor], Tensor]
    depth: int


def curve_of(call: Call) -> Curve | None:
    """Return the result of an operator as a curve, or None if it is none.

    It is one if the operator is element-wise, its data operands are curves over one tensor (or that tensor), and all other
    operands are numbers.
    """
    if call.operator.kind not in _KINDS or call.target is not None:
        return None
    if len(call.data) > 1 and len({id(proxy if proxy.curve is None else proxy.curve.root) for proxy in call.data}) > 1:
        return None  # two tensors are combined, as in most sums
    curves = [_existing(proxy) for proxy in call.data]
    root, depth = curves[0].root, max(curve.depth for curve in curves)
    if depth >= _DEEPEST or any(curve.root is not root or curve.version != root.version for curve in curves):
        return None
    numbers: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if not (isinstance(tensor, Proxy) and tensor.holds_data):
            numbers[id(tensor)] = tensor
        return tensor

    map_tensors(note, (call.args, call.kwargs))
    if any(tensor.numel() != 1 and not _is_uniform(tensor) for tensor in numbers.values()):
        return None
    functions = {id(proxy): curve.function for proxy, curve in zip(call.data, curves, strict=True)}
    compute, args, kwargs = call.operator.compute or call.function, call.args, call.kwargs

    def function(at: Tensor) -> Tensor:
        def value(tensor: Tensor) -> Tensor:
            if id(tensor) in functions:
                return functions[id(tensor)](at)
            constant = value_of(tensor).detach().reshape(-1)[0]
            return constant.to(at) if constant.is_floating_point() else constant

        plain, named = map_tensors(value, (args, kwargs))
        return compute(*plain, **named)

    return Curve(root, root.version, function, depth + 1)


def _existing(proxy: Proxy) -> Curve:
    """The curve that a tensor is, or the identity over the tensor itself."""
    return proxy.curve or Curve(proxy, proxy.version, lambda at: at, 0)


def _is_uniform(tensor: Tensor) -> bool:
    """Whether all elements of a constant are equal, as in a tensor of zeros."""
    if not shape_of(tensor).numel() or (isinstance(tensor, Proxy) and tensor.origins):
        return False
    value = value_of(tensor)
    return not value.is_meta and bool((value == value.reshape(-1)[0]).all())


def lipschitz_constant(curve: Curve, like: Tensor) -> float | None:
    """Return the steepest slope of a curve, or None if it is unbounded, as of x^2 or at a jump."""
    slopes = []
    for reach in (_NEAR, _FAR):
        at = torch.linspace(-reach, reach, _POINTS, dtype=torch.float64, device="cpu" if like.is_meta else like.device)
        values: Any = curve.function(at)
        if values.dtype == torch.bool or not torch.isfinite(values).all():
            return None
        slopes.append(float((values.diff() / at.diff()).abs().max()))
    near, far = slopes
    return near if far <= 1.001 * near else None
