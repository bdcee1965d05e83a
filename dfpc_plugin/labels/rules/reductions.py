"""Sums, means and extremes over axes."""

from __future__ import annotations

from typing import Any

import torch

from dfpc_plugin.flow.registry import forms
from dfpc_plugin.labels.axes import varying
from dfpc_plugin.labels.call import LabelCall
from dfpc_plugin.labels.combine import sum_away
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.tensor import LabelTensor, shape_of

__all__ = ["extreme", "reduced"]


def reduced(call: LabelCall, input: LabelTensor, dim: Any, keepdim: bool) -> LabelTensor:
    """Sum over axes; None: over all."""
    own = shape_of(input)
    dims = range(len(own)) if dim is None or dim == [] or dim == () else [dim] if isinstance(dim, int) else dim
    axes = {int(axis) % max(len(own), 1) for axis in dims}
    shape = [1 if axis in axes else size for axis, size in enumerate(own)]
    left = sum_away(call.table, input.slots, axes, call.where)
    if not keepdim:
        index = tuple(0 if axis in axes else slice(None) for axis in range(len(own)))
        left = [slot[index] for slot in left]
        shape = [size for axis, size in enumerate(own) if axis not in axes]
    return call.make(shape, left)


@label_rule(*forms("sum", "mean", "nansum", "nanmean", "logsumexp", "amax", "amin", "prod", "norm", "count_nonzero"),
            torch.linalg.vector_norm, torch.linalg.norm)
def reduction(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> LabelTensor:
    """Reads the channels it sums over; others stay."""
    given = [arg for arg in args if not isinstance(arg, torch.dtype)]
    if call.name in ("norm", "vector_norm", "linalg_norm", "linalg_vector_norm"):
        given = given[1:]
    dim = kwargs.get("dim", kwargs.get("axis", given[0] if given else None))
    return reduced(call, input, dim, bool(kwargs.get("keepdim", given[1] if len(given) > 1 else False)))


@label_rule(*forms("var", "std"))
def variance(call: LabelCall, input: LabelTensor, dim: Any = None, *args: Any, **kwargs: Any) -> LabelTensor:
    """As a mean; torch lets the axes precede or leave out the flag `unbiased`."""
    dims = None if isinstance(dim, bool) else dim
    return reduced(call, input, dims, bool(kwargs.get("keepdim", args[1] if len(args) > 1 else False)))


@label_rule(*forms("var_mean", "std_mean"))
def variance_and_mean(call: LabelCall, input: LabelTensor, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """As a mean, twice."""
    first = variance(call, input, dim, *args, **kwargs)
    return tuple(call.make(shape_of(first), first.slots, part=part) for part in range(2))


def extreme(call: LabelCall, input: LabelTensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """Largest or smallest entries along an axis, with their positions; over all axes without one."""
    if dim is None:
        return reduced(call, input, None, False)
    values = reduced(call, input, dim, keepdim)
    shape = shape_of(values)
    return torch.return_types.max((call.make(shape, values.slots, part=0), call.make(shape, part=1)))


@label_rule(*forms("argmax", "argmin"))
def position_of_extreme(call: LabelCall, input: LabelTensor, dim: Any = None, keepdim: bool = False) -> LabelTensor:
    """Positions along an axis, which tell of no channels."""
    result = reduced(call, input, dim, keepdim)
    return call.make(shape_of(result))


@label_rule(*forms("topk", "sort"))
def picked_by_value(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> Any:
    """Entries in the order of their values; channels along the axis stay."""
    numbers = [arg for arg in args if isinstance(arg, int) and not isinstance(arg, bool)]
    position = 1 if call.name == "topk" else 0
    dim = int(kwargs.get("dim", numbers[position] if len(numbers) > position else -1)) % input.dim()
    left = []
    for slot in input.slots:
        if dim in varying(slot):
            call.freeze(slot, f"is put in order by {call.where}")
        else:
            left.append(slot.narrow(dim, 0, 1))
    shape = call.on_meta((input, *args), kwargs)[0].shape
    return call.make(shape, left, part=0), call.make(shape, part=1)


@label_rule(*forms("argsort"))
def order_by_value(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> LabelTensor:
    """Positions, which tell of no channels."""
    return call.make(shape_of(input))
