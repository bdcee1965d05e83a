"""Operators that move, copy or cast elements: the operator itself is applied to bounds, means and labels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.ops.record import EXACT, composed, moves, moves_entries, native, operator
from dfpc_plugin.tracing.axes import inner_axis
from dfpc_plugin.tracing.operator import forms, present
from dfpc_plugin.tracing.proxy import Proxy, slots_of, value_of

_VIEWS = (
    "permute transpose swapaxes swapdims t movedim moveaxis squeeze unsqueeze diagonal atleast_1d atleast_2d atleast_3d "
    "adjoint"
).split()
_COPIES = "flip rot90 clone tril triu fliplr flipud pixel_unshuffle".split()
for _function in forms(*_VIEWS, *_COPIES) + tuple(getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH")):
    if not _function.__name__.endswith("_") or _function.__name__ == "__get__":  # no proxy changes its shape in place
        _view = _function.__name__ not in _COPIES
        moves(_function, channels=moves_entries(_function), view=_view)(native(_function, __name__))


def _unchanged(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    result = call.moved(input, lambda labels: labels)
    if isinstance(input, Proxy) and not input.slots:
        result.spread = input.spread
    return result


_CASTS = (
    "detach contiguous type float half double bfloat16 type_as requires_grad alias positive resolve_conj resolve_neg"
).split()


@operator(*present("int", "long", "short", "bool", "byte", "char"), convention=EXACT, channels=_unchanged, kind="moves")
@moves(*present(*_CASTS), Tensor.data.__get__, channels=_unchanged, view=True)  # type: ignore[attr-defined]
def cast(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x: bounds keep their own precision and layout, and rounding is ignored."""
    return input


@moves(*present("to"), channels=_unchanged, view=True)
def move_to(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x, on another device if one is given: its name or number, or a tensor on it."""
    for arg in (*args, *kwargs.values()):
        if isinstance(arg, Tensor):
            return input.to(arg.device)
        if isinstance(arg, torch.device | str | int) and not isinstance(arg, bool):
            device = torch.device(arg)
            return input if device.type == "meta" else input.to(device)
    return input


@composed(*present("cpu"))
def move_to_cpu(input: Any, *args: Any, **kwargs: Any) -> Any:
    """x, on the CPU."""
    return input.to("cpu")


@composed(*present("cuda"))
def move_to_cuda(input: Any, device: torch.device | str | int = "cuda", *args: Any, **kwargs: Any) -> Any:
    """x, on a CUDA device."""
    return input.to(device)


def _roll_channels(call: ChannelCall, input: Any, shifts: Any, dims: Any = None) -> Any:
    """Roll labels, and protect channels along a rolled axis: pruning would change which elements wrap around."""
    rolled = range(input.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
    axes = {int(axis) % input.dim() for axis in rolled}
    for slot in slots_of(input):
        if inner_axis(slot) in axes:
            call.table.freeze(slot, f"is rolled along its own axis by {call.where}")
    return call.moved(input, lambda labels: labels.roll(shifts, dims))


moves(*forms("roll"), channels=_roll_channels)(native(torch.roll, __name__))


@composed(*forms("channel_shuffle", "native_channel_shuffle"))
def channel_shuffle(input: Any, groups: int) -> Any:
    """Moves elements: groups become the inner axis."""
    return input.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _pixel_shuffle_channels(call: ChannelCall, input: Any, upscale_factor: int) -> Any:
    """Unite each block of channels that makes one output channel."""
    axis, length = input.dim() - 3, int(upscale_factor) ** 2
    slots = []
    for slot in input.slots:
        blocks = slot.unflatten(axis, (-1, length))
        call.table.unite_along(blocks, [axis + 1], call.where)
        first = blocks.narrow(axis + 1, 0, 1)
        slots.append(first.expand(*first.shape[: axis + 1], length, *first.shape[axis + 2 :]).flatten(axis, axis + 1))
    return call.moved(call.make(input.shape, slots), lambda labels: F.pixel_shuffle(labels, int(upscale_factor)))


moves(*forms("pixel_shuffle"), channels=_pixel_shuffle_channels)(native(F.pixel_shuffle, __name__))


def _is_window(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Tell `Tensor.unfold` (sliding windows) from `F.unfold`, whose first argument is a kernel size."""
    of_an_image = {"kernel_size", "dilation", "padding", "stride"} & set(kwargs)
    return len(args) + len(kwargs) == 3 and not of_an_image and all(isinstance(arg, int) for arg in args)


def _unfold_channels(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Every window has the channels of its elements."""
    if _is_window(args, kwargs):
        axis = int(kwargs.get("dimension", args[0] if args else 0)) % input.dim()
        call.protect(input, f"is windowed along its own axis by {call.where}", axis)
        return call.moved(input, lambda labels: labels.unfold(*map(int, args), **kwargs))
    shape = call.on_shapes().shape
    window = shape[-2] // input.size(-3)
    return call.make(
        shape, [slot[..., :1, 0].expand(*slot.shape[:-2], window).flatten(-2)[..., None] for slot in input.slots]
    )


@moves(Tensor.unfold, F.unfold, channels=_unfold_channels)
def unfold(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Moves elements: sliding windows of a tensor, or of an image when the first argument is a kernel size."""
    return input.unfold(*args, **kwargs) if _is_window(args, kwargs) else F.unfold(input, *args, **kwargs)


def _fold_channels(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Sum windows back into an image: the elements of a channel's window are united."""
    shape = call.on_shapes().shape
    slots = []
    for slot in input.slots:
        blocks = slot.unflatten(-2, (int(shape[-3]), -1))[..., :1]
        slots.append(call.table.unite_along(blocks, [blocks.dim() - 2], call.where))
    return call.make(shape, slots)


moves(*forms("fold"), channels=_fold_channels)(native(F.fold, __name__))


def _repeat_interleave_channels(
    call: ChannelCall, input: Any, repeats: Any, dim: int | None = None, **kwargs: Any
) -> Any:
    """Repeat labels; protect channels that are repeated unequally often."""
    if isinstance(repeats, Tensor):
        repeats = value_of(repeats).cpu()
        call.protect(input, f"is repeated unequally by {call.where}", None if dim is None else dim % input.dim())
    return call.moved(input, lambda labels: torch.repeat_interleave(labels, repeats, dim, **kwargs))


moves(*forms("repeat_interleave"), channels=_repeat_interleave_channels)(native(torch.repeat_interleave, __name__))


def _repeat_channels(call: ChannelCall, input: Any, *sizes: Any, **kwargs: Any) -> Any:
    """Repeat labels, and require equally many channels in every copy."""
    sizes = sizes or tuple(kwargs.values())
    counts = list(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)
    counts = [1] * (input.dim() - len(counts)) + counts
    result = call.moved(input, lambda labels: labels.repeat(*map(int, counts)))
    lead = len(counts) - input.dim()
    for slot in slots_of(result):
        for axis, count in enumerate(counts[lead:], start=lead):
            if count > 1 and slot.stride(axis) and slot.size(axis) > count:
                call.size(slot.unflatten(axis, (int(count), -1)), axis + 1, None, flexible=axis + 1)
    return call.copied(input, result, counts)


for _function in forms("repeat", "tile"):
    moves(_function, channels=_repeat_channels)(native(_function, __name__))
