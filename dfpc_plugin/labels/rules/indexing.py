"""Picking entries, and writing them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.errors import ValueDependentError
from dfpc_plugin.flow.registry import forms
from dfpc_plugin.flow.tree import map_tensors
from dfpc_plugin.labels.axes import inner_axis, squeezed, varying
from dfpc_plugin.labels.call import LabelCall
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.tensor import LabelTensor, shape_of

__all__: list[str] = []


def _on_labels(call: LabelCall, index: Any) -> Any:
    """An index as labels take it: on the CPU, with the values of the model's constants."""

    def plain(tensor: Tensor) -> Tensor:
        if isinstance(tensor, LabelTensor):
            if tensor.value is None:
                raise ValueDependentError(call.name, call.run.names.caller() or "the model itself")
            tensor = tensor.value()
        return tensor.cpu()

    return map_tensors(plain, index)


def _note_positions(call: LabelCall, input: LabelTensor, index: Any) -> None:
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


def _note_position(call: LabelCall, slot: Tensor, axis: int, part: Any) -> None:
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


def _bounded(call: LabelCall, slot: Tensor, axis: int, bound: int) -> None:
    """As many channels stay before a bound as it says, or after it if it counts from the end."""
    position = int(bound)
    if position >= 0:
        if position:
            call.size(slot.narrow(axis, 0, position), axis, bound, flexible=inner_axis(slot))
    elif position + slot.size(axis) >= 0:
        call.size(slot.narrow(axis, slot.size(axis) + position, -position), axis, -bound, flexible=inner_axis(slot))


def _united_steps(call: LabelCall, slot: Tensor, axis: int, step: int) -> None:
    """Channels that a strided slice takes apart go together."""
    whole = slot.size(axis) // step * step
    if whole == slot.size(axis):
        call.table.unite_along(slot.unflatten(axis, (-1, step)), [axis + 1], call.where)
    else:
        call.freeze(slot, f"is sliced in steps by {call.where}")


@label_rule(Tensor.__getitem__)
def getitem(call: LabelCall, input: Any, index: Any) -> Any:
    """Picks entries; bounds of slices ask for the number of channels before them."""
    if not isinstance(input, LabelTensor):  # an ordinary tensor indexed by labelled constants
        return input[map_tensors(lambda t: t.value() if isinstance(t, LabelTensor) and t.value else t, index)]
    _note_positions(call, input, index)
    plain = _on_labels(call, index)
    return call.moved(input, lambda slot: slot[plain])


@label_rule(*forms("select"))
def select(call: LabelCall, input: LabelTensor, dim: int, index: int) -> LabelTensor:
    """Picks one position."""
    dim = dim % input.dim()
    _note_positions(call, input, (*[slice(None)] * dim, index))
    return call.moved(input, lambda slot: slot.select(dim, int(index)))


@label_rule(*forms("narrow"))
def narrow(call: LabelCall, input: LabelTensor, dim: int, start: int, length: int) -> LabelTensor:
    """Picks a range."""
    dim = dim % input.dim()
    _note_positions(call, input, (*[slice(None)] * dim, slice(start, start + length)))
    return call.moved(input, lambda slot: slot.narrow(dim, int(start), int(length)))


@label_rule(*forms("index_select", "gather", "take_along_dim"))
def index_select(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> LabelTensor:
    """Picks entries along an axis."""
    given = (*args, *kwargs.values())
    index = next(arg for arg in given if isinstance(arg, Tensor))
    dim = next((arg for arg in given if isinstance(arg, int)), 0) % input.dim()
    for slot in input.slots:
        if dim in varying(slot):
            call.freeze(slot, f"is picked from by positions in {call.where}")
    if isinstance(index, LabelTensor) and index.value is None:
        shape = call.on_meta((input, *args), kwargs).shape
        return call.resized(input, shape)
    plain_args, plain_kwargs = _on_labels(call, args), _on_labels(call, kwargs)
    return call.moved(input, lambda slot: getattr(torch, call.name)(slot, *plain_args, **plain_kwargs))


@label_rule(Tensor.__setitem__)
def setitem(call: LabelCall, input: LabelTensor, index: Any, value: Any) -> LabelTensor:
    """Writes entries: what is written over belongs to the channels of what is written."""
    if not isinstance(value, LabelTensor):
        _note_positions(call, input, index)
        return call.same(input)
    plain = _on_labels(call, index)
    slots = [slot.clone() for slot in input.slots]
    region = call.moved(input, lambda slot: slot[plain])
    region.wild = input.wild or not input.slots
    written = call.elementwise(region, value)
    for number, slot in enumerate(written.slots):
        if number == len(slots):
            slots.append(_spread_out(slot, shape_of(input)) if region.wild else torch.zeros(shape_of(input), dtype=torch.long, device="cpu"))
        slots[number][plain] = slot
    return call.make(input.shape, slots)


def _spread_out(slot: Tensor, shape: torch.Size) -> Tensor:
    """Labels of a constant that is written in part: the rest takes the channels of what is written, where it can."""
    fits = slot.dim() == len(shape) and all(slot.size(axis) == shape[axis] for axis in varying(slot))
    return squeezed(slot).expand(shape).clone() if fits else torch.zeros(shape, dtype=torch.long, device="cpu")


@label_rule(Tensor.copy_)
def copy(call: LabelCall, input: LabelTensor, src: Any, non_blocking: bool = False) -> LabelTensor:
    """Replaces all entries."""
    return call.elementwise(input, src)
