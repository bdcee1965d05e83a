"""Indexing and selecting."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.combine import Operand, meet
from dfpc_plugin.ops.record import EXACT, moves, native, operator
from dfpc_plugin.ops.reduction import largest
from dfpc_plugin.tracing.axes import canonical, inner_axis, squeezed, varying
from dfpc_plugin.tracing.operator import Means, forms
from dfpc_plugin.tracing.proxy import Proxy, shape_of, slots_of, value_of
from dfpc_plugin.tracing.tree import map_tensors, tensors


def is_known(index: Any) -> bool:
    """Whether the positions in an index are known: not if they depend on data or lie on the meta device."""
    return not any((isinstance(tensor, Proxy) and tensor.value is None) or tensor.is_meta for tensor in tensors(index))


def on_labels(index: Any) -> Any:
    """Convert an index for label tensors: on the CPU, with the values of the model's constants."""
    return map_tensors(lambda tensor: value_of(tensor).detach().cpu(), index)


def note_positions(call: ChannelCall, input: Proxy, index: Any) -> None:
    """Note the sizes that slices and positions require along axes of channels."""
    parts = _by_axis(index, input.dim())
    if any(map(_is_mask, parts)):
        return
    for axis, part in enumerate(parts):
        for slot in input.slots if axis not in input.spread or not isinstance(part, slice) else ():
            if axis in varying(slot):
                _note_position(call, slot, axis, part)


def _by_axis(index: Any, rank: int) -> list[Any]:
    """The part of an index for each axis of the tensor; a mask is repeated for all of its axes."""
    given = [part for part in (index if isinstance(index, tuple) else (index,)) if part is not None]
    parts = [[part] * part.dim() if _is_mask(part) else [] if part is Ellipsis else [part] for part in given]
    rest = [[slice(None)] * (rank - sum(map(len, parts)))]
    at = next((number for number, part in enumerate(given) if part is Ellipsis), len(parts))
    return list(itertools.chain(*parts[:at], *rest, *parts[at:]))


def _is_mask(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dtype == torch.bool


def _note_position(call: ChannelCall, slot: Tensor, axis: int, part: Any) -> None:
    """Note what one part of an index requires along one axis of channels."""
    length = slot.size(axis)
    if isinstance(part, slice):
        step = int(part.step or 1)
        if step != 1:
            _united_steps(call, slot, axis, abs(step))
        for bound in (part.start, part.stop):
            inside = bound is not None and 0 < abs(int(bound)) < length
            if inside and (step == 1 or not (bound is part.start and 0 < int(bound) < step)):
                call.bounded(slot, axis, bound)
    elif isinstance(part, int):
        call.bounded(slot, axis, part)
        if axis == inner_axis(slot):
            call.table.freeze(slot.narrow(axis, int(part) % length, 1), f"is read by a fixed index in {call.where}")
    elif slot.numel():
        call.table.freeze(slot, f"is read by fixed indices in {call.where}")


def _united_steps(call: ChannelCall, slot: Tensor, axis: int, step: int) -> None:
    """Unite the channels that a strided slice separates."""
    whole = slot.size(axis) // step * step
    if whole == slot.size(axis):
        call.table.unite_along(slot.unflatten(axis, (-1, step)), [axis + 1], call.where)
    else:
        call.table.freeze(slot, f"is sliced with a step by {call.where}")


def _getitem_channels(call: ChannelCall, input: Any, index: Any) -> Any:
    """Select labels. A slice's bound fixes the number of channels before it."""
    keep_positions(call, index)
    if not isinstance(input, Proxy):  # an ordinary tensor, indexed by labelled constants or data
        return call.make(call.on_shapes().shape)
    note_positions(call, input, index)
    if not is_known(index):
        shape = call.on_shapes().shape
        return call.make(shape, [_at_any_position(slot, index) for slot in input.slots])
    plain = on_labels(index)
    result = call.moved(input, lambda slot: slot[plain])
    result.spread = spread_of_part(input, index, plain)
    return result


def spread_of_part(input: Proxy, index: Any, plain: Any) -> dict[int, int | None]:
    """Return the expanded axes of a constant that stay expanded: those sliced, not indexed by positions.

    The ends of the slices are noted on `input`; they count when the constant is read, after everything was written into
    it.
    """
    found: dict[int, int | None] = {}
    shape = shape_of(input)
    for axis, size in input.spread.items() if input.viewed is input else ():
        part = _by_axis(index, len(shape))[axis]
        if isinstance(part, slice) and int(part.step or 1) == 1:
            bounds = [(axis, bound) for bound in (part.start, part.stop) if bound is not None]
            input.ends = (*input.ends, *bounds)
            along = torch.arange(shape[axis], device="cpu").view(-1, *(1,) * (len(shape) - axis - 1)).expand(shape)
            found |= dict.fromkeys(varying(canonical(along[plain])), None if bounds else size)
    return found


def keep_positions(call: ChannelCall, index: Any) -> None:
    """Protect channels whose elements are positions in another tensor: where they point to is not tracked."""
    for tensor in tensors(index):
        call.protect(tensor, f"is a position in {call.where}")


def _at_any_position(slot: Tensor, index: Any) -> Tensor | None:
    """Labels at unknown positions, or None if they differ along the indexed axes."""
    found = canonical(slot[map_tensors(_first_position, index)])
    return found if varying(found) else None


def _first_position(tensor: Tensor) -> Tensor:
    return torch.zeros(shape_of(tensor), dtype=torch.long, device="cpu")


_picks = partial(operator, convention=EXACT, means=Means.LINEAR, kind="picks", first_only=False)


@_picks(Tensor.__getitem__, channels=_getitem_channels, view=True)
def getitem(input: Tensor, index: Any) -> Tensor:
    """Selects elements; at positions that depend on data, the largest along the axis (over channels, the sum)."""
    if not any(tensor.is_floating_point() for tensor in tensors(index)):
        return input[index]
    parts = enumerate(_by_axis(index, input.dim()))
    axes = [axis for axis, part in parts if isinstance(part, Tensor) and part.is_floating_point()]
    level = largest(input.abs(), axes, True).expand(input.shape)
    return level[map_tensors(lambda at: torch.zeros_like(at).long() if at.is_floating_point() else at, index)]


def at(rank: int, dim: int, position: Any) -> tuple[Any, ...]:
    """Return the index of `position` along one axis of a tensor of `rank` axes."""
    return (*[slice(None)] * (dim % rank), position)


def _select_channels(call: ChannelCall, input: Any, dim: int, index: int) -> Any:
    return _getitem_channels(call, input, at(input.dim(), dim, index))


def _narrow_channels(call: ChannelCall, input: Any, dim: int, start: int, length: int) -> Any:
    return _getitem_channels(call, input, at(input.dim(), dim, slice(start, start + length)))


for _name, _channels in (("select", _select_channels), ("narrow", _narrow_channels)):
    for _function in forms(_name):
        moves(_function, channels=_channels, view=True)(native(_function, __name__))


def _arguments(args: tuple, kwargs: dict[str, Any], rank: int) -> tuple[Tensor, int | None]:
    """The index and the axis among the arguments of a function that selects along an axis."""
    given = (*args, *kwargs.values())
    index = next(arg for arg in given if isinstance(arg, Tensor))
    dim = next((int(arg) for arg in given if isinstance(arg, int) and not isinstance(arg, bool)), None)
    return index, None if dim is None else dim % max(rank, 1)


def _along_axis_channels(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Select along an axis, and protect the channels along it."""
    index, dim = _arguments(args, kwargs, len(shape_of(input)))
    if call.name in ("gather", "take_along_dim") and dim is not None and isinstance(index, Proxy) and index.slots:
        return _along_axis_of_both(call, input, index, dim)
    keep_positions(call, (args, kwargs))
    call.protect(input, f"is read by fixed indices in {call.where}", dim)
    if not is_known((args, kwargs)):
        shape = call.on_shapes().shape
        spread = [
            slot.narrow(dim, 0, 1).expand([shape[axis] if axis == dim else size for axis, size in enumerate(slot.shape)])
            for slot in slots_of(input) if dim is not None and dim not in varying(slot)
        ]  # fmt: skip
        return call.make(shape, [_fitting(slot, shape) for slot in spread])
    plain_args, plain_kwargs = on_labels(args), on_labels(kwargs)
    name = call.name
    return call.moved(input, lambda slot: getattr(torch, name)(slot, *plain_args, **plain_kwargs))


def _along_axis_of_both(call: ChannelCall, input: Any, index: Proxy, dim: int) -> Proxy:
    """Select along an axis at positions that every channel has of its own: the channels of both are united."""
    call.protect(input, f"is read by fixed indices in {call.where}", dim)
    call.protect(index, f"is a position in {call.where}", dim)
    return call.make(index.shape, united_beside(call, (input, index), dim))


def united_beside(call: ChannelCall, parts: Iterable[Tensor], dim: int) -> list[Tensor]:
    """Unite the channels of tensors along all axes but one, of which the result has one element."""
    operands = []
    for part in parts:
        own = call.broadcast(part, shape_of(part))
        slots = tuple([slot.narrow(dim, 0, 1) for slot in own.slots])
        spread = {axis: size for axis, size in own.spread.items() if axis != dim}
        operands.append(Operand(slots, own.extents - {dim}, own.wild, spread))
    return meet(call.table, operands, call.where)


def _fitting(slot: Tensor, shape: torch.Size) -> Tensor | None:
    """Expand labels to another shape, or None where they vary along an axis of another size."""
    return None if any(slot.size(axis) != shape[axis] for axis in varying(slot)) else squeezed(slot).expand(shape)


def _picking(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of a function that selects elements along an axis."""

    def pick(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Selects elements; at positions that depend on data, the largest along the axis (over channels, the sum)."""
        index, dim = _arguments(args, kwargs, input.dim())
        if not index.is_floating_point():
            return function(input, *args, **kwargs)
        level = largest(input.abs(), range(input.dim()) if dim is None else dim, True).expand(input.shape)
        zeros = torch.zeros_like(index, dtype=torch.long)
        args, kwargs = map_tensors(lambda tensor: zeros if tensor is index else tensor, (args, kwargs))
        return function(level, *args, **kwargs)

    return pick


for _name in ("index_select", "gather", "take_along_dim", "take"):
    _picks(*forms(_name), channels=_along_axis_channels)(_picking(getattr(torch, _name)))
