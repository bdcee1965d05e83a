"""Expected values and variances of data that is not there, as far as weights and stored statistics tell them.

In a pass over expected errors, what flows is a variance per entry in place of a bound: weights act by their squares, which
the engine sees to. This module adds what the plain rules do not know:

- Behind a batch norm in evaluation, a channel has the mean beta and the variance gamma^2, whatever it was made from.
- An activation f turns a channel that is about normal, N(m, v), into one with the mean and the variance of f: a channel
  that a ReLU mostly cuts off hardly varies. Both are integrals over one variable, taken numerically, for any f.
- Sums add both; a linear layer maps the mean by its weights and its bias.

Variances stay linear in those they come from, with the ratio held fixed, so that a channel's share in what reads it is
found by one backward pass, as for bounds. Means are kept per channel, where they are known; nothing depends on the rest.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.flow.registry import Rule, forms
from dfpc_plugin.flow.tensor import FlowTensor, holds_data

__all__ = ["settle"]

Settled = tuple[Tensor, Tensor | None]
"""Variances, and expected values that broadcast to them; None where these are not known."""
_Handler = Callable[[Mapping[str, Any], Tensor], Settled]
_HANDLERS: dict[Callable[..., Any], _Handler] = {}


def settle(rule: Rule, func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], variance: Tensor) -> Settled:
    """Return the variances and the expected values of an operator's result.

    Args:
        rule: The operator's rule.
        func: The operator.
        args: What it was called with; data as `FlowTensor`, weights as they are.
        kwargs: The same, by name.
        variance: What the rule made of the operands' variances and the squares of weights.
    """
    if not rule.function.__module__.startswith("dfpc_plugin."):  # a rule of the user's own, which is to be followed
        return variance, None
    if func in _ACTIVATIONS:
        return _activation(func, args, kwargs, variance)
    handler = _HANDLERS.get(func)
    if handler is None:
        return variance, None
    names = _parameter_names(rule.function, rule.context)
    return handler(dict(zip(names, args, strict=False)) | dict(kwargs), variance)


@lru_cache(maxsize=512)
def _parameter_names(function: Callable[..., Any], context: bool) -> tuple[str, ...]:
    """Names of a rule's arguments, after the context."""
    return tuple(inspect.signature(function).parameters)[int(context) :]


def _handles(*functions: Callable[..., Any]) -> Callable[[_Handler], _Handler]:
    """Let the decorated function settle these operators."""

    def register(handler: _Handler) -> _Handler:
        _HANDLERS.update(dict.fromkeys(functions, handler))
        return handler

    return register


@_handles(F.batch_norm, torch.batch_norm)
def _batch_norm(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """Beta and gamma^2: statistics are those of what arrives, so that they need not be looked at."""
    before = given["input"].bound
    weight, bias = (_aligned(given.get(name), variance, 1) for name in ("weight", "bias"))
    target = torch.ones((), dtype=variance.dtype, device=variance.device) if weight is None else weight.square()
    mean = torch.zeros_like(target) if bias is None else bias
    return before * _ratio(target, before.detach()), mean


@_handles(*forms("layer_norm"))
def _layer_norm(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """Beta, and gamma^2 v over the mean of v, which the norm divides by."""
    before, weight, bias = given["input"].bound, given.get("weight"), given.get("bias")
    level = before.detach().mean(list(range(-len(given["normalized_shape"]), 0)), keepdim=True)
    mean = variance.new_zeros(()) if bias is None else bias.detach().to(variance.dtype)
    return _normalised(before, level, given, None if weight is None else weight.detach()), mean


@_handles(*forms("rms_norm"))
def _rms_norm(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """As a layer norm, with a mean that is not known: it does not centre."""
    return _layer_norm(given, variance)[0], None


@_handles(*forms("group_norm"))
def _group_norm(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """As a layer norm, with channels along axis one."""
    before = given["input"].bound
    weight, bias = (_aligned(given.get(name), variance, 1) for name in ("weight", "bias"))
    grouped = before.detach().unflatten(1, (int(given["num_groups"]), -1))
    level = grouped.mean(list(range(2, grouped.dim())), keepdim=True).expand_as(grouped).flatten(1, 2)
    return _normalised(before, level, given, weight), variance.new_zeros(()) if bias is None else bias


def _normalised(before: Tensor, level: Tensor, given: Mapping[str, Any], weight: Tensor | None) -> Tensor:
    """Gamma^2 v / (level + eps)."""
    target = torch.ones_like(level) if weight is None else weight.to(before.dtype).square()
    return before * _ratio(target, level + (given.get("eps") or 0))


@_handles(*forms("linear"))
def _linear(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """W m + b."""
    mean = _mean_of(given.get("input"))
    weight = given.get("weight")
    if mean is None or holds_data(weight) or (mean.dim() > 1 and mean.shape[:-1].numel() > 1):
        return variance, None
    weight = _term(weight).to(variance.dtype)
    mapped = mean.reshape(-1).expand(weight.shape[1]) @ weight.t()
    bias = given.get("bias")
    return variance, mapped if bias is None else mapped + bias.detach().to(variance.dtype)


@_handles(*forms("conv1d", "conv2d", "conv3d"))
def _convolution(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """W m + b, away from the borders."""
    mean = _mean_of(given.get("input"))
    weight = given["weight"]
    if mean is None or isinstance(weight, FlowTensor) or not _per_channel(mean, weight.dim() - 2):
        return variance, None
    weight = weight.detach().to(variance.dtype).flatten(2).sum(2)
    groups = int(given.get("groups", 1))
    by_group = mean.reshape(-1).expand(weight.shape[1] * groups).view(groups, 1, -1)
    mapped = (weight.view(groups, -1, weight.shape[1]) * by_group).sum(2).flatten()
    bias = given.get("bias")
    return variance, _aligned(mapped if bias is None else mapped + bias.detach().to(variance.dtype), variance, 1)


@_handles(*forms("add"), torch.Tensor.__radd__)
def _add(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """Means add, the second one times alpha; its variance counts alpha^2 times."""
    alpha, other = given.get("alpha", 1), given.get("other")
    if alpha != 1 and isinstance(other, FlowTensor) and holds_data(other):
        variance = variance + (alpha**2 - abs(alpha)) * other.bound
    terms = [_term(value) for value in (given.get("input"), other)]
    if any(term is None for term in terms):
        return variance, None
    return variance, terms[0] + (terms[1] if alpha == 1 else alpha * terms[1])


@_handles(*forms("mul", "multiply"), torch.Tensor.__rmul__)
def _multiply(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """K m and k^2 v for a constant k: what the rule took |k| for, once more. Of two data, the product of their means."""
    data, constant = given.get("input"), given.get("other")
    if holds_data(constant):
        data, constant = constant, data
    if holds_data(constant):
        first, second = _mean_of(data), _mean_of(constant)
        return variance, None if first is None or second is None else first * second
    variance = variance * _once_more(constant)
    mean = _mean_of(data)
    return variance, None if mean is None else mean * (_term(constant))


@_handles(*forms("div", "divide", "true_divide"))
def _divide(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """M / k and v / k^2 for a constant k."""
    constant = given.get("other")
    if holds_data(constant):
        return variance, None
    variance = variance / _once_more(constant)
    mean = _mean_of(given.get("input"))
    return variance, None if mean is None else mean / _term(constant)


def _once_more(constant: Any) -> Any:
    """|k| where a rule took it for k^2: for numbers and tensors of integers, which are not squared on the way there."""
    constant = _term(constant)
    if isinstance(constant, Tensor) and (constant.is_floating_point() or constant.dtype == torch.bool):
        return 1
    return abs(constant)


_ACTIVATIONS = frozenset(
    forms(
        "relu", "relu6", "hardtanh", "tanh", "softsign", "logsigmoid", "celu", "sigmoid", "hardsigmoid", "hardswish",
        "silu", "gelu", "mish", "selu", "elu", "leaky_relu", "softplus",
    )
)


def _activation(func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], variance: Tensor) -> Settled:
    """The mean and the variance of f(N(m, v)), for whatever f computes."""
    options = dict(kwargs)
    data = args[0] if args else options.pop("input")
    mean, before = _mean_of(data), data.bound
    if mean is None:  # the rule's slope, squared
        return variance * _ratio(variance.detach(), before.detach()), None
    small = _averaged(before.detach(), mean)
    nodes, weights = _normal(before.dtype, before.device)
    shape = (-1, *(1,) * small.dim())
    at = mean + small.sqrt() * nodes.view(shape)
    found = func(at, *args[1:], **options)
    weights = weights.view(shape)
    expected = (found * weights).sum(0)
    target = ((found - expected).square() * weights).sum(0)
    return before * _ratio(target, small), expected


@_handles(F.scaled_dot_product_attention)
def _attention(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """The mean of the values over the tokens: rows of attention weights add up to one."""
    mean = _mean_of(given.get("value"))
    if mean is None or mean.dim() < 2:
        return variance, mean
    return variance, mean.mean(-2, keepdim=True)


@_handles(*forms("dropout", "dropout1d", "dropout2d", "dropout3d"))
def _kept(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """Means stay what they are."""
    return variance, _mean_of(next(iter(given.values())))


@_handles(*forms("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"))
def _pooled(given: Mapping[str, Any], variance: Tensor) -> Settled:
    """Means per channel stay what they are; those of columns or rows are no longer known."""
    mean = _mean_of(next(iter(given.values())))
    return variance, mean if mean is not None and _per_channel(mean, 2) else None


def _per_channel(mean: Tensor, axes: int) -> bool:
    """Whether a mean of `(N, C, *axes)` tells nothing but channels apart."""
    others = [size for axis, size in enumerate(mean.shape, axes + 2 - mean.dim()) if axis != 1]
    return all(size == 1 for size in others)


def _mean_of(value: Any) -> Tensor | None:
    return value.expectation if holds_data(value) else None


def _term(value: Any) -> Any:
    """Expected value of an operand: constants are what they are."""
    if holds_data(value):
        return value.expectation
    if isinstance(value, FlowTensor):
        value = value.constant
    return value.detach() if isinstance(value, Tensor) else value


def _aligned(vector: Tensor | None, like: Tensor, axis: int) -> Tensor | None:
    """Lay `(C,)` out along one axis of a tensor."""
    if vector is None:
        return None
    return vector.detach().to(like.dtype).view([-1 if dim == axis else 1 for dim in range(like.dim())])


def _averaged(variance: Tensor, like: Tensor) -> Tensor:
    """Average over what a mean does not tell apart."""
    lacking = variance.dim() - like.dim()
    axes = [dim for dim in range(variance.dim()) if dim < lacking or like.shape[dim - lacking] == 1]
    small = variance.mean(axes, keepdim=True) if axes else variance
    return small.reshape(small.shape[lacking:]) if lacking else small


def _ratio(target: Tensor, now: Tensor) -> Tensor:
    """Target / now; what does not vary stays so."""
    return torch.where(now > 0, target / now.clamp_min(torch.finfo(now.dtype).tiny), torch.zeros_like(now))


@lru_cache(maxsize=8)
def _normal(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of an integral over a standard normal variable, fine enough for a kink."""
    nodes = torch.linspace(-6, 6, 121, dtype=torch.float64, device="cpu")
    weights = torch.exp(-nodes.square() / 2) / math.sqrt(2 * math.pi)
    return nodes.to(device, dtype), (weights / weights.sum()).to(device, dtype)

