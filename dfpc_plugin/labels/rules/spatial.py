"""Pooling, padding and resampling: they work position by position on channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.flow.registry import forms
from dfpc_plugin.labels.axes import canonical, varying
from dfpc_plugin.labels.call import LabelCall
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.tensor import LabelTensor, shape_of

__all__: list[str] = []

_POOLS = [
    f"{kind}_pool{rank}d" for kind in ("avg", "max", "lp", "adaptive_avg", "adaptive_max") for rank in (1, 2, 3)
]


@label_rule(
    *(function for name in _POOLS if hasattr(F, name) for function in forms(name)),
    *forms("interpolate", "upsample", "fractional_max_pool2d"),
)
def resample(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> Any:
    """Another size along positions; channels stay where they are."""
    result = call.on_meta((input, *args), kwargs)
    if isinstance(result, Tensor):
        return call.resized(input, result.shape)
    return tuple(call.resized(input, part.shape) for part in result)


@label_rule(*(function for rank in (1, 2, 3) for function in forms(f"max_pool{rank}d_with_indices")))
def resample_with_positions(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> Any:
    """As pooling, with positions."""
    shape = call.on_meta((input, *args), kwargs)[0].shape
    return call.resized(input, shape), call.make(shape)


@label_rule(F.pad, torch.constant_pad_nd)
def pad(call: LabelCall, input: LabelTensor, pad: Any, mode: str = "constant", value: Any = None) -> LabelTensor:
    """Longer along some axes; entries added along an axis of channels are none of them."""
    own = shape_of(input)
    sides = [(int(pad[2 * n]), int(pad[2 * n + 1])) for n in range(len(pad) // 2)]
    shape = list(own)
    for number, (before, after) in enumerate(sides):
        shape[-1 - number] += before + after
    slots = []
    for slot in input.slots:
        for number, (before, after) in enumerate(sides):
            axis = slot.dim() - 1 - number
            if axis in varying(slot) and (before or after):
                if mode != "constant":
                    call.freeze(slot, f"is padded along its own axis by {call.where}")
                slot = _padded(slot, axis, before, after)
            elif before or after:
                sizes = list(slot.shape)
                sizes[axis] += before + after
                slot = slot.narrow(axis, 0, 1).expand(sizes)
        slots.append(canonical(slot))
    return call.make(shape, slots)


def _padded(slot: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Add entries without channels."""
    if before < 0 or after < 0:
        slot = slot.narrow(axis, max(-before, 0), slot.size(axis) - max(-before, 0) - max(-after, 0))
    pieces = []
    for count in (max(before, 0), max(after, 0)):
        sizes = list(slot.shape)
        sizes[axis] = count
        pieces.append(torch.zeros((), dtype=torch.long, device="cpu").expand(sizes))
    return torch.cat([pieces[0], slot, pieces[1]], axis)


@label_rule(*forms("grid_sample"))
def grid_sample(call: LabelCall, input: Any, grid: Any, *args: Any, **kwargs: Any) -> LabelTensor:
    """Samples positions of every channel."""
    own, moved = shape_of(input), shape_of(grid)
    for slot in getattr(grid, "slots", ()):
        call.freeze(slot, f"are positions in {call.where}")
    return call.resized(input, [own[0], own[1], *moved[1:-1]])
