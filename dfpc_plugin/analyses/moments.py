"""Expected values and variances of data that is not there, as far as weights and stored statistics tell them.

In a pass over expected errors, what flows is a variance per entry in place of a bound. The record of every operator says how
means and variances pass it:

- Behind a batch norm in evaluation, a channel has the mean beta and the variance gamma^2, whatever it was made from.
- A function f of every entry by itself turns a channel that is about normal, N(m, v), into one with the mean and the variance
  of f: a channel that a ReLU mostly cuts off hardly varies. Both are integrals over one variable, taken numerically, for any f.
- Sums add both; a linear layer maps the mean by its weights and its bias; what moves entries moves means.

Variances stay linear in those they come from, with the ratio held fixed, so that a channel's share in what reads it is
found by one backward pass, as for bounds. Means are kept per channel, where they are known; nothing depends on the rest.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.tracing.calls import Call
from dfpc_plugin.tracing.operator import Means
from dfpc_plugin.tracing.proxy import Proxy, is_data, value_of
from dfpc_plugin.tracing.tree import map_tensors

__all__ = [
    "aligned",
    "mean_of",
    "once_more",
    "per_channel",
    "ratio",
    "real_values",
    "term",
    "through_function",
    "with_moments",
]

_MOST_CONSTANTS = 4096
"""Above as many different constants, a function of data and constants is not integrated for each of them."""


def with_moments(call: Call, variances: Any) -> tuple[Any, Any]:
    """Return the variances and the means of an operator's result; None where means are not known.

    Args:
        call: The operation.
        variances: What the rule made of the operands' variances and the squares of weights.
    """
    means = call.operator.means
    if means is Means.LINEAR:
        return variances, _by_the_operator(call)
    if not isinstance(variances, Tensor) or means is Means.AS_BOUNDS:
        return variances, None
    if means is Means.POINTWISE:
        return _pointwise(call, variances)
    assert call.operator.noise is not None
    names = _parameter_names(call.operator.bound, call.operator.context)
    return call.operator.noise(dict(zip(names, call.args, strict=False)) | call.kwargs, variances)


@lru_cache(maxsize=1024)
def _parameter_names(function: Callable[..., Any], context: bool) -> tuple[str, ...]:
    """Names of a rule's arguments, after the context."""
    return tuple(inspect.signature(function).parameters)[int(context) :]


def _by_the_operator(call: Call) -> Any:
    """What a linear operator makes of means, in the structure of its result; None where some are not known."""
    if any(proxy.expectation is None for proxy in call.data):
        return None
    args, kwargs = map_tensors(_expected, (call.args, call.kwargs))
    try:
        found = _result_of(call, args, kwargs)
    except RuntimeError:  # a view, for which what is repeated has to be written out
        found = _result_of(call, *map_tensors(Tensor.contiguous, (args, kwargs)))
    return map_tensors(_compact, found)


def _result_of(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator returns for other arguments, which it leaves as they are."""
    if call.target is not None and call.target is call.args[0]:
        args = (args[0].clone(), *args[1:])
    found = call.function(*args, **kwargs)
    return args[0] if found is None else found  # an assignment returns nothing


def _expected(tensor: Tensor) -> Tensor:
    """Means in the shape of the data; constants are what they are."""
    if not is_data(tensor):
        return value_of(tensor).detach()
    assert isinstance(tensor, Proxy) and tensor.expectation is not None
    return tensor.expectation.detach().expand(tensor.bound.shape)


def _compact(expectation: Tensor) -> Tensor:
    """Keep one of what an expansion repeats."""
    for axis, step in enumerate(expectation.stride()):
        if step == 0 and expectation.shape[axis] > 1:
            expectation = expectation.narrow(axis, 0, 1)
    return expectation


def _pointwise(call: Call, variance: Tensor) -> tuple[Tensor, Tensor | None]:
    """The mean and the variance of f(N(m, v)), for whatever f computes of one data operand."""
    if len(call.data) != 1:
        return variance, None
    (data,) = call.data
    if variance.dim() < data.dim():  # such as the largest of all entries
        return variance, None
    constants = _small_constants(call, data)
    if constants is None:  # the rule's slope, squared
        return variance * ratio(variance.detach(), data.bound.detach()), None

    def function(at: Tensor) -> Tensor:
        args, kwargs = map_tensors(
            lambda tensor: at if tensor is data else constants[id(tensor)], (call.args, call.kwargs)
        )
        return (call.operator.compute or call.function)(*args, **kwargs)

    def fallback() -> Tensor:
        return variance * ratio(variance.detach(), data.bound.detach())

    return through_function(function, data, fallback, full_rank=any(constant.dim() for constant in constants.values()))


def through_function(
    function: Callable[[Tensor], Tensor], data: Proxy, fallback: Callable[[], Tensor], *, full_rank: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The variance and the mean of a function of every entry, by integrals over a normal variable.

    Args:
        function: Computes it, of tensors with one axis more in front.
        data: What it is a function of.
        fallback: Makes the variance where the mean of `data` is not known, or the function has a pole.
        full_rank: The function has constants that line up with the data from the right.
    """
    mean, before = mean_of(data), data.bound
    if mean is None:
        return fallback(), None
    if full_rank:
        mean = mean.reshape((1,) * (before.dim() - mean.dim()) + mean.shape)
    small = _averaged(before.detach(), mean)
    nodes, weights = _normal(before.dtype, before.device)
    found = function(mean + small.sqrt() * nodes.view(-1, *(1,) * small.dim()))
    weights = weights.view(-1, *(1,) * (found.dim() - 1))
    expected = (found * weights).sum(0)
    target = ((found - expected).square() * weights).sum(0)
    if not target.is_meta and not torch.isfinite(target).all():  # a pole or the edge of where f is defined
        return fallback(), None
    return before * ratio(target, small), expected


def _small_constants(call: Call, data: Proxy) -> dict[int, Tensor] | None:
    """Constants among the arguments, with one of what is the same along an axis; None if there are too many of them."""
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor is not data:
            found[id(tensor)] = _reduced(real_values(tensor).to(data.bound.dtype))
        return tensor

    map_tensors(note, (call.args, call.kwargs))
    return None if any(constant.numel() > _MOST_CONSTANTS for constant in found.values()) else found


def _reduced(constant: Tensor) -> Tensor:
    """Keep one of what is the same along an axis."""
    for axis, size in enumerate(constant.shape):
        if size > 1 and bool((constant == constant.narrow(axis, 0, 1)).all()):
            constant = constant.narrow(axis, 0, 1)
    return constant


def per_channel(mean: Tensor, axes: int) -> bool:
    """Whether a mean of `(N, C, *axes)` tells nothing but channels apart."""
    others = [size for axis, size in enumerate(mean.shape, axes + 2 - mean.dim()) if axis != 1]
    return all(size == 1 for size in others)


def mean_of(value: Any) -> Tensor | None:
    """The mean of data; None if it is not known."""
    return value.expectation if is_data(value) else None


def term(value: Any) -> Any:
    """The mean of an operand: constants are what they are."""
    if is_data(value):
        return value.expectation
    return value_of(value).detach() if isinstance(value, Tensor) else value


def real_values(tensor: Tensor) -> Tensor:
    """The values of a constant; magnitudes of complex ones, by whose squares variances grow."""
    value = value_of(tensor).detach()
    return value.abs() if value.is_complex() else value


def aligned(vector: Any, like: Tensor, axis: int) -> Any:
    """Lay `(C,)` out along one axis of a tensor."""
    if vector is None:
        return None
    return real_values(vector).to(like.dtype).view([-1 if dim == axis else 1 for dim in range(like.dim())])


def once_more(constant: Any) -> Any:
    """|k| where a rule took it for k^2: for numbers and tensors of integers, which are not squared on the way there."""
    constant = term(constant)
    if isinstance(constant, Tensor) and (constant.is_floating_point() or constant.dtype == torch.bool):
        return 1
    return abs(constant)


def ratio(target: Tensor, now: Tensor) -> Tensor:
    """Target / now; what does not vary stays so."""
    return torch.where(now > 0, target / now.clamp_min(torch.finfo(now.dtype).tiny), torch.zeros_like(now))


def _averaged(variance: Tensor, like: Tensor) -> Tensor:
    """Average over what a mean does not tell apart."""
    lacking = variance.dim() - like.dim()
    axes = [dim for dim in range(variance.dim()) if dim < lacking or like.shape[dim - lacking] == 1]
    small = variance.mean(axes, keepdim=True) if axes else variance
    return small.reshape(small.shape[lacking:]) if lacking else small


@lru_cache(maxsize=8)
def _normal(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of an integral over a standard normal variable, fine enough for a kink."""
    nodes = torch.linspace(-6, 6, 121, dtype=torch.float64, device="cpu")
    weights = torch.exp(-nodes.square() / 2) / math.sqrt(2 * math.pi)
    return nodes.to(device, dtype), (weights / weights.sum()).to(device, dtype)
