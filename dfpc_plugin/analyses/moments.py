"""Means and variances of data, as far as weights and stored statistics tell them.

In a pass over expected errors, every element has a variance instead of a bound. The operator's record says how means and
variances pass it:

- After a batch norm in evaluation, a channel has the mean beta and the variance gamma^2.
- An element-wise function f maps a roughly normal channel, N(m, v), to the mean and the variance of f. Both are
  one-dimensional integrals, computed numerically: a channel that a ReLU mostly cuts off hardly varies.
- Sums add both; a linear layer maps the mean by its weights and its bias; operators that move elements move means.

Variances stay linear in those they come from, with the ratio held fixed, so one backward pass gives the channels' shares, as
for bounds. Means are kept per channel, where they are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.tracing.axes import along, canonical, squeezed
from dfpc_plugin.tracing.calls import Call
from dfpc_plugin.tracing.operator import Means
from dfpc_plugin.tracing.proxy import Proxy, is_data, value_of
from dfpc_plugin.tracing.tree import map_tensors

_MOST_CONSTANTS = 4096
"""Maximum number of different constants for which a function of data and constants is integrated."""


def with_moments(call: Call, variances: Any) -> tuple[Any, Any]:
    """Return variances and means (None where unknown) of a result, from the `variances` that its rule computed."""
    means = call.operator.means
    if means is Means.LINEAR:
        return variances, _by_the_operator(call)
    if not isinstance(variances, Tensor) or means is Means.AS_BOUNDS:
        return variances, None
    if means is Means.POINTWISE:
        return _pointwise(call, variances)
    assert call.operator.noise is not None
    return call.operator.noise(call.named, variances)


def _by_the_operator(call: Call) -> Any:
    """Means after a linear operator, structured like its result, or None if an operand's are unknown."""
    if any(proxy.expectation is None for proxy in call.data):
        return None
    args, kwargs = map_tensors(_expected, (call.args, call.kwargs))
    try:
        found = _result_of(call, args, kwargs)
    except RuntimeError:  # a view, which needs contiguous means
        found = _result_of(call, *map_tensors(Tensor.contiguous, (args, kwargs)))
    return map_tensors(squeezed, found)


def _result_of(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the operator on other arguments, which it leaves unchanged."""
    if call.target is not None and call.target is call.args[0]:
        args = (args[0].clone(), *args[1:])
    found = call.function(*args, **kwargs)
    return args[0] if found is None else found  # an assignment returns nothing


def _expected(tensor: Tensor) -> Tensor:
    """Means in the shape of the data; a constant is its own mean."""
    if not is_data(tensor):
        return value_of(tensor).detach()
    assert isinstance(tensor, Proxy) and tensor.expectation is not None
    return tensor.expectation.detach().expand(tensor.bound.shape)


def _pointwise(call: Call, variance: Tensor) -> tuple[Tensor, Tensor | None]:
    """The variance and the mean of f(N(m, v)), for an element-wise operator f of one data operand."""
    if len(call.data) != 1:
        return variance, None
    (data,) = call.data
    if variance.dim() < data.dim():  # such as the largest of all entries
        return variance, None

    def fallback() -> Tensor:  # the rule's slope, squared
        return variance * ratio(variance.detach(), data.bound.detach())

    constants = _small_constants(call, data)
    if constants is None:
        return fallback(), None

    def function(at: Tensor) -> Tensor:
        args, kwargs = map_tensors(
            lambda tensor: at if tensor is data else constants[id(tensor)], (call.args, call.kwargs)
        )
        return (call.operator.compute or call.function)(*args, **kwargs)

    return through_function(function, data, fallback, full_rank=any(constant.dim() for constant in constants.values()))


def through_function(
    function: Callable[[Tensor], Tensor], data: Proxy, fallback: Callable[[], Tensor], *, full_rank: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the variance and the mean of an element-wise function, by integrals over a normal variable.

    `function` takes tensors with an additional first axis; with `full_rank`, it has constants that are broadcast with the
    data. `fallback` computes the variance where the mean of `data` is unknown or the function has a pole.
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
    if not target.is_meta and not torch.isfinite(target).all():  # a pole, or undefined
        return fallback(), None
    return before * ratio(target, small), expected


def _small_constants(call: Call, data: Proxy) -> dict[int, Tensor] | None:
    """Constants among the arguments, without repetitions along axes; None if one of them is too large."""
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor is not data:
            found[id(tensor)] = squeezed(canonical(real_values(tensor).to(data.bound.dtype)))
        return tensor

    map_tensors(note, (call.args, call.kwargs))
    return None if any(constant.numel() > _MOST_CONSTANTS for constant in found.values()) else found


def per_channel(mean: Tensor, axes: int) -> bool:
    """Whether a mean of `(N, C, *axes)` varies along channels only."""
    others = [size for axis, size in enumerate(mean.shape, axes + 2 - mean.dim()) if axis != 1]
    return all(size == 1 for size in others)


def mean_of(value: Any) -> Tensor | None:
    """The mean of data, or None if it is unknown."""
    return value.expectation if is_data(value) else None


def term(value: Any) -> Any:
    """The mean of an operand; a constant is its own mean."""
    if is_data(value):
        return value.expectation
    return value_of(value).detach() if isinstance(value, Tensor) else value


def real_values(tensor: Tensor) -> Tensor:
    """The values of a constant; magnitudes of complex ones, whose squares scale variances."""
    value = value_of(tensor).detach()
    return value.abs() if value.is_complex() else value


def aligned(vector: Any, like: Tensor, axis: int) -> Any:
    """Lay `(C,)` out along one axis of a tensor."""
    if vector is None:
        return None
    return real_values(vector).to(like.dtype).view(along(axis, like.dim()))


def once_more(constant: Any) -> Any:
    """Return |k| for numbers and integer tensors, by which rules multiply variances once instead of twice; else 1."""
    constant = term(constant)
    if isinstance(constant, Tensor) and (constant.is_floating_point() or constant.dtype == torch.bool):
        return 1
    return abs(constant)


def ratio(target: Tensor, now: Tensor) -> Tensor:
    """Return `target / now`, or zero where `now` is zero."""
    return torch.where(now > 0, target / now.clamp_min(torch.finfo(now.dtype).tiny), torch.zeros_like(now))


def _averaged(variance: Tensor, like: Tensor) -> Tensor:
    """Average a variance over the axes along which the mean `like` does not vary."""
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
