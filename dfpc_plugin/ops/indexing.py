"""Picking entries, and writing them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.layer_context import LayerContext
from dfpc_plugin.errors import ValueDependentError
from dfpc_plugin.ops.moves import native
from dfpc_plugin.ops.record import EXACT, operator
from dfpc_plugin.ops.reduction import largest
from dfpc_plugin.tracing.axes import canonical, inner_axis, squeezed, varying
from dfpc_plugin.tracing.operator import Means, forms
from dfpc_plugin.tracing.proxy import Proxy, shape_of, value_of
from dfpc_plugin.tracing.tree import map_tensors, tensors

__all__: list[str] = []


def _is_known(index: Any) -> bool:
    """Whether the positions in an index are known; without data, and on the meta device, they are not."""
    return not any((isinstance(tensor, Proxy) and tensor.value is None) or tensor.is_meta for tensor in tensors(index))


def _on_labels(index: Any) -> Any:
    """An index as labels take it: on the CPU, with the values of the model's constants."""
    return map_tensors(lambda tensor: value_of(tensor).detach().cpu(), index)


def _note_positions(call: ChannelCall, input: Proxy, index: Any) -> None:
    """Note the sizes that slices and positions along axes of channels ask for."""
    parts = list(index) if isinstance(index, tuple) else [index]
    real = [part for part in parts if part is not None and part is not Ellipsis]
    if any(isinstance(part, Tensor) and part.dtype == torch.bool for part in real):
        return
    given = sum(part is not None and part is not Ellipsis for part in parts)
    axis = 0
    for part in parts:
        if part is Ellipsis:
            axis += input.dim() - given
            continue
        if part is None:
            continue
        for slot in input.slots:
            if axis in varying(slot):
                _note_position(call, slot, axis, part)
        axis += 1


def _note_position(call: ChannelCall, slot: Tensor, axis: int, part: Any) -> None:
    """Note what one entry of an index asks for along one axis of channels."""
    length = slot.size(axis)
    if isinstance(part, slice):
        step = int(part.step or 1)
        if step != 1:
            _united_steps(call, slot, axis, abs(step))
        for bound in (part.start, part.stop):
            inside = bound is not None and 0 < abs(int(bound)) < length
            if inside and (step == 1 or not (bound is part.start and 0 < int(bound) < step)):
                _bounded(call, slot, axis, bound)
    elif isinstance(part, int):
        _bounded(call, slot, axis, part)
        if axis == inner_axis(slot):
            call.freeze(slot.narrow(axis, int(part) % length, 1), f"is picked by its position in {call.where}")
    elif slot.numel():
        call.freeze(slot, f"is picked from by positions in {call.where}")


def _bounded(call: ChannelCall, slot: Tensor, axis: int, bound: int) -> None:
    """As many channels stay before a bound as it says, or after it if it counts from the end."""
    position = int(bound)
    if position >= 0:
        if position:
            call.size(slot.narrow(axis, 0, position), axis, bound, flexible=inner_axis(slot))
    elif position + slot.size(axis) >= 0:
        call.size(slot.narrow(axis, slot.size(axis) + position, -position), axis, -bound, flexible=inner_axis(slot))


def _united_steps(call: ChannelCall, slot: Tensor, axis: int, step: int) -> None:
    """Channels that a strided slice takes apart go together."""
    whole = slot.size(axis) // step * step
    if whole == slot.size(axis):
        call.table.unite_along(slot.unflatten(axis, (-1, step)), [axis + 1], call.where)
    else:
        call.freeze(slot, f"is sliced in steps by {call.where}")


def _getitem_channels(call: ChannelCall, input: Any, index: Any) -> Any:
    """Picks entries; bounds of slices ask for the number of channels before them."""
    keep_positions(call, index)
    if not isinstance(input, Proxy):  # an ordinary tensor, at positions that labelled constants or data tell
        return call.make(call.on_meta((input, index), {}).shape)
    _note_positions(call, input, index)
    if not _is_known(index):
        shape = call.on_meta((input, index), {}).shape
        return call.make(shape, [_at_any_position(slot, index) for slot in input.slots])
    plain = _on_labels(index)
    return call.moved(input, lambda slot: slot[plain])


def keep_positions(call: ChannelCall, index: Any) -> None:
    """Channels whose entries are positions in another tensor stay: which entries these pick is not followed."""
    for tensor in tensors(index):
        for slot in getattr(tensor, "slots", ()):
            call.freeze(slot, f"is a position in {call.where}")


def _at_any_position(slot: Tensor, index: Any) -> Tensor | None:
    """Labels at positions that are not known: those of the axes that these do not run along."""
    found = canonical(slot[map_tensors(_first_position, index)])
    return found if varying(found) else None


def _first_position(tensor: Tensor) -> Tensor:
    return torch.zeros(shape_of(tensor), dtype=torch.long, device="cpu")


@operator(
    Tensor.__getitem__, convention=EXACT, channels=_getitem_channels, means=Means.LINEAR, kind="picks", view=True,
    first_only=False,
)  # fmt: skip
def getitem(input: Tensor, index: Any) -> Tensor:
    """Picks entries; at positions that depend on data, the largest along the axis (of several channels, their sum)."""
    if not any(tensor.is_floating_point() for tensor in tensors(index)):
        return input[index]
    axes, axis = [], 0
    parts = list(index) if isinstance(index, tuple) else [index]
    given = sum(part is not None and part is not Ellipsis for part in parts)
    for part in parts:
        axes += [axis] if isinstance(part, Tensor) and part.is_floating_point() else []
        axis += input.dim() - given if part is Ellipsis else part is not None
    level = largest(input.abs(), axes, True).expand(input.shape)
    return level[map_tensors(lambda tensor: torch.zeros_like(tensor, dtype=torch.long) if tensor.is_floating_point() else tensor, index)]


def _select_channels(call: ChannelCall, input: Any, dim: int, index: int) -> Any:
    """Picks one position."""
    dim = dim % input.dim()
    _note_positions(call, input, (*[slice(None)] * dim, index))
    return call.moved(input, lambda slot: slot.select(dim, int(index)))


def _narrow_channels(call: ChannelCall, input: Any, dim: int, start: int, length: int) -> Any:
    """Picks a range."""
    dim = dim % input.dim()
    _note_positions(call, input, (*[slice(None)] * dim, slice(start, start + length)))
    return call.moved(input, lambda slot: slot.narrow(dim, int(start), int(length)))


for _function in forms("select"):
    operator(_function, convention=EXACT, channels=_select_channels, means=Means.LINEAR, kind="moves", view=True)(
        native(_function, "select")
    )
for _function in forms("narrow"):
    operator(_function, convention=EXACT, channels=_narrow_channels, means=Means.LINEAR, kind="moves", view=True)(
        native(_function, "narrow")
    )


def _arguments(args: tuple, kwargs: dict[str, Any], rank: int) -> tuple[Tensor, int | None]:
    """The index and the axis of a function that picks along an axis."""
    given = (*args, *kwargs.values())
    index = next(arg for arg in given if isinstance(arg, Tensor))
    dim = next((int(arg) for arg in given if isinstance(arg, int) and not isinstance(arg, bool)), None)
    return index, None if dim is None else dim % max(rank, 1)


def _along_axis_channels(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Picks entries along an axis."""
    _, dim = _arguments(args, kwargs, len(shape_of(input)))
    keep_positions(call, (args, kwargs))
    slots = getattr(input, "slots", ())
    for slot in slots:
        if dim is None or dim in varying(slot):
            call.freeze(slot, f"is picked from by positions in {call.where}")
    if not _is_known((args, kwargs)):
        shape = call.on_meta((input, *args), kwargs).shape
        spread = [
            slot.narrow(dim, 0, 1).expand([shape[axis] if axis == dim else size for axis, size in enumerate(slot.shape)])
            for slot in slots if dim is not None and dim not in varying(slot)
        ]  # fmt: skip
        return call.make(shape, [_fitting(slot, shape) for slot in spread])
    plain_args, plain_kwargs = _on_labels(args), _on_labels(kwargs)
    name = call.name
    return call.moved(input, lambda slot: getattr(torch, name)(slot, *plain_args, **plain_kwargs))


def _fitting(slot: Tensor, shape: torch.Size) -> Tensor | None:
    """Labels on another shape, where they do not vary along what differs."""
    axes = varying(slot)
    if any(slot.size(axis) != shape[axis] for axis in axes):
        return None
    return slot[tuple(slice(None) if axis in axes else slice(0, 1) for axis in range(slot.dim()))].expand(shape)


def _picks_along(name: str) -> None:
    """Register a function that picks entries along an axis."""
    function = getattr(torch, name)

    def pick(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Picks entries; at positions that depend on data, the largest along the axis (of several channels, their sum)."""
        index, dim = _arguments(args, kwargs, input.dim())
        if not index.is_floating_point():
            return function(input, *args, **kwargs)
        level = largest(input.abs(), range(input.dim()) if dim is None else dim, True).expand(input.shape)
        zeros = torch.zeros_like(index, dtype=torch.long)
        args, kwargs = map_tensors(lambda tensor: zeros if tensor is index else tensor, (args, kwargs))
        return function(level, *args, **kwargs)

    pick.__name__ = name
    operator(*forms(name), convention=EXACT, channels=_along_axis_channels, means=Means.LINEAR, kind="picks", first_only=False)(pick)


for _name in ("index_select", "gather", "take_along_dim", "take"):
    _picks_along(_name)


def _setitem_channels(call: ChannelCall, input: Any, index: Any, value: Any) -> Any:
    """Writes entries: what is written over belongs to the channels of what is written."""
    if not isinstance(value, Proxy):
        _note_positions(call, input, index)
        return call.same(input)
    if not _is_known(index):
        raise ValueDependentError("torch.Tensor.__setitem__", call.notes.names.caller() or "the model itself")
    plain = _on_labels(index)
    slots = [slot.clone() for slot in input.slots]
    region = call.moved(input, lambda slot: slot[plain])
    region.wild = input.wild or not input.slots
    written = call.elementwise(region, value)
    for number, slot in enumerate(written.slots):
        if number == len(slots):
            shape = shape_of(input)
            slots.append(_spread_out(slot, shape) if region.wild else torch.zeros(shape, dtype=torch.long, device="cpu"))
        slots[number][plain] = slot
    return call.make(input.shape, slots)


def _spread_out(slot: Tensor, shape: torch.Size) -> Tensor:
    """Labels of a constant that is written in part: the rest takes the channels of what is written, where it can."""
    fits = slot.dim() == len(shape) and all(slot.size(axis) == shape[axis] for axis in varying(slot))
    return squeezed(slot).expand(shape).clone() if fits else torch.zeros(shape, dtype=torch.long, device="cpu")


@operator(Tensor.__setitem__, convention=EXACT, channels=_setitem_channels, couples=True, context=True, kind="writes")
def setitem(flow: LayerContext, input: Tensor, index: Any, value: Any) -> Tensor:
    """Replaces entries; a constant has bound zero."""
    out = input.clone() if flow.is_data("input") else torch.zeros_like(input)
    out[index] = value if flow.is_data("value") else 0
    return out


def _copy_channels(call: ChannelCall, input: Any, src: Any, non_blocking: bool = False) -> Any:
    """Replaces all entries."""
    return call.elementwise(input, src)


@operator(
    Tensor.copy_, Tensor.data.__set__,  # type: ignore[attr-defined]
    convention=EXACT, channels=_copy_channels, couples=True, additive=True, kind="writes",
)  # fmt: skip
def copy(input: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """Replaces all entries."""
    return src.expand(input.shape)

