"""Operators that move, copy or cast entries without asking for sizes: executed on the labels as they are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.flow.registry import forms
from dfpc_plugin.labels.axes import inner_axis, varying
from dfpc_plugin.labels.call import LabelCall
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.tensor import LabelTensor

__all__: list[str] = []


def _moves(names: str) -> None:
    """Register operators of one tensor that run on integers."""
    for name in names.split():
        for function in forms(name):
            if function.__name__.endswith("_"):
                continue

            def move(call: LabelCall, input: LabelTensor, *args: Any, _native: Any = function, **kwargs: Any) -> Any:
                return call.moved(input, lambda slot: _native(slot, *args, **kwargs))

            label_rule(function)(move)


_moves(
    "permute transpose swapaxes swapdims t movedim moveaxis squeeze unsqueeze diagonal atleast_1d atleast_2d "
    "atleast_3d flip rot90 clone contiguous tril triu fliplr flipud"
)


@label_rule(*forms("roll"))
def roll(call: LabelCall, input: LabelTensor, shifts: Any, dims: Any = None) -> Any:
    """Moves entries round; channels along a rolled axis stay, as after a cut others would come round."""
    rolled = range(input.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
    axes = {int(axis) % input.dim() for axis in rolled}
    for slot in getattr(input, "slots", ()):
        if inner_axis(slot) in axes:
            call.freeze(slot, f"is rolled along its own axis by {call.where}")
    return call.moved(input, lambda slot: slot.roll(shifts, dims))


for _attribute in ("T", "mT", "H", "mH"):
    _getter = getattr(Tensor, _attribute).__get__

    def _read_attribute(call: LabelCall, input: LabelTensor, _getter: Any = _getter) -> LabelTensor:
        return call.moved(input, _getter)

    label_rule(_getter)(_read_attribute)


@label_rule(
    *forms("detach", "float", "half", "double", "bfloat16", "type_as", "requires_grad", "to", "cuda", "cpu", "type",
           "alias", "positive"),
    Tensor.data.__get__,  # type: ignore[attr-defined]
    Tensor.real.__get__,  # type: ignore[attr-defined]
)
def unchanged(call: LabelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """The same entries, perhaps of another dtype or on another device."""
    if not isinstance(input, LabelTensor):  # an ordinary tensor takes the dtype of a labelled one
        return input
    return call.moved(input, lambda slot: slot)


@label_rule(*forms("channel_shuffle", "native_channel_shuffle"))
def channel_shuffle(call: LabelCall, input: LabelTensor, groups: int) -> Any:
    """Written out, so that its groups keep equally many channels."""
    return input.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


@label_rule(*forms("pixel_shuffle"))
def pixel_shuffle(call: LabelCall, input: LabelTensor, upscale_factor: int) -> LabelTensor:
    """Entries of an output channel come from a block of channels, which go together."""
    return call.moved(_united_blocks(call, input, upscale_factor**2), lambda slot: F.pixel_shuffle(slot, upscale_factor))


@label_rule(*forms("pixel_unshuffle"))
def pixel_unshuffle(call: LabelCall, input: LabelTensor, downscale_factor: int) -> LabelTensor:
    """Every channel becomes a block of channels."""
    return call.moved(input, lambda slot: F.pixel_unshuffle(slot, downscale_factor))


def _united_blocks(call: LabelCall, input: LabelTensor, length: int) -> LabelTensor:
    """Unite consecutive channels in blocks of `length`."""
    axis = input.dim() - 3
    for slot in input.slots:
        blocks = slot.unflatten(axis, (-1, length))
        call.table.unite_along(blocks, [axis + 1], call.where)
    firsts = [s.unflatten(axis, (-1, length)).narrow(axis + 1, 0, 1) for s in input.slots]
    return call.make(input.shape, [f.expand(*f.shape[: axis + 1], length, *f.shape[axis + 2 :]).flatten(axis, axis + 1)
                                   for f in firsts])


@label_rule(Tensor.unfold, F.unfold)
def unfold(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> LabelTensor:
    """Sliding windows of a tensor, or of an image when the first argument is a kernel size."""
    of_an_image = {"kernel_size", "dilation", "padding", "stride"} & set(kwargs)
    if len(args) + len(kwargs) == 3 and not of_an_image and all(isinstance(arg, int) for arg in args):
        for slot in input.slots:
            if int(args[0]) % input.dim() in varying(slot):
                call.freeze(slot, f"is windowed along its own axis by {call.where}")
        return call.moved(input, lambda slot: slot.unfold(*map(int, args), **kwargs))
    shape = call.on_meta((input, *args), kwargs).shape
    window = shape[-2] // input.size(-3)
    slots = [slot[..., :1, 0].expand(*slot.shape[:-2], window).flatten(-2)[..., None] for slot in input.slots]
    return call.make(shape, slots)


@label_rule(*forms("fold"))
def fold(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> LabelTensor:
    """Windows summed back into an image: the entries of a channel's window go together."""
    shape = call.on_meta((input, *args), kwargs).shape
    slots = []
    for slot in input.slots:
        blocks = slot.unflatten(-2, (int(shape[-3]), -1))[..., :1]
        slots.append(call.table.unite_along(blocks, [blocks.dim() - 2], call.where))
    return call.make(shape, slots)


@label_rule(*forms("repeat_interleave"))
def repeat_interleave(call: LabelCall, input: LabelTensor, repeats: Any, dim: int | None = None, **kwargs: Any) -> Any:
    """Copies of entries side by side; channels that are not all copied alike stay."""
    if isinstance(repeats, Tensor):
        repeats = repeats.value().cpu() if isinstance(repeats, LabelTensor) and repeats.value else repeats.cpu()
        for slot in input.slots:
            if dim is None or dim % input.dim() in varying(slot):
                call.freeze(slot, f"is repeated unequally by {call.where}")
    return call.moved(input, lambda slot: torch.repeat_interleave(slot, repeats, dim, **kwargs))


@label_rule(*forms("repeat", "tile"))
def repeat(call: LabelCall, input: LabelTensor, *sizes: Any) -> LabelTensor:
    """Copies of the tensor; a single channel that is repeated to several is spelled out by what it meets."""
    counts = list(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)
    counts = [1] * (input.dim() - len(counts)) + counts
    result = call.moved(input, lambda slot: slot.repeat(*map(int, counts)))
    lead = len(counts) - input.dim()
    for slot in result.slots:
        for axis, count in enumerate(counts[lead:], start=lead):
            if count > 1 and slot.stride(axis) and slot.size(axis) > count:
                call.size(slot.unflatten(axis, (int(count), -1)), axis + 1, None, flexible=axis + 1)
    return result
