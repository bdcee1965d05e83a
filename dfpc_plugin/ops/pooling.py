"""Pooling, padding and resampling: they act on positions, channel by channel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.moments import mean_of, per_channel
from dfpc_plugin.ops.record import BOUND, EXACT, composed, moves, native, operator
from dfpc_plugin.tracing.axes import canonical, varying
from dfpc_plugin.tracing.operator import Means, forms, present
from dfpc_plugin.tracing.proxy import Proxy, shape_of


def _resample_channels(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Resize positions; channels are unchanged."""
    result, window = call.on_shapes(), _window(call, *args, **kwargs)
    if isinstance(result, Tensor):
        return call.resized(input, result.shape, window)
    return tuple(call.resized(input, part.shape, window) for part in result)


def _with_positions(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Resize positions; every channel has positions of its own."""
    shape = call.on_shapes()[0].shape
    found = call.resized(input, shape, _window(call, *args, **kwargs))
    return found, call.make(shape, found.slots, part=1, dtype=torch.long)


def _window(call: ChannelCall, kernel_size: Any = 1, *args: Any, **kwargs: Any) -> list[int]:
    """The window of a pooling operator that has one of a given size."""
    found = _WINDOWED.search(call.where)
    if found is None:
        return []
    axes = int(found[1])
    sizes = list(kernel_size) if isinstance(kernel_size, list | tuple) else [kernel_size]
    return [int(size) for size in (sizes * axes)[:axes]]


def _unpool_channels(call: ChannelCall, input: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
    """Unite the channels of the input with those of the positions."""
    return call.resized(call.elementwise(input, indices), call.on_shapes().shape)


def _mean_per_channel(given: Mapping[str, Any], variance: Tensor) -> Any:
    """Keep means per channel; means that differ between positions are dropped."""
    mean = mean_of(next(iter(given.values())))
    return variance, mean if mean is not None and per_channel(mean, 2) else None


_WINDOWED = re.compile(r"(?<!adaptive_)(?:avg|max)_pool(\d)d")
_pools = partial(operator, channels=_resample_channels, kind="pools")

_AVERAGE = "The operator on the bounds: its matrix has no negative entry."
_LARGEST = "The largest bound in the window: |max a - max b| <= max |a - b|."
_NORM = "The operator on the bounds: | ||a|| - ||b|| | <= ||a - b||."
_POOLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("avg_pool2d adaptive_avg_pool2d", _AVERAGE, {"convention": EXACT, "noise": _mean_per_channel}),
    ("avg_pool1d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool3d", _AVERAGE, {"convention": EXACT, "means": Means.LINEAR}),
    ("max_pool2d", _LARGEST, {"noise": _mean_per_channel}),
    ("max_pool1d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", _LARGEST, {}),
    ("max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d_with_indices "
     "adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices", _LARGEST,
     {"channels": _with_positions, "dtypes": (None, torch.long)}),
    ("fractional_max_pool2d", _LARGEST, {}),
    ("lp_pool1d lp_pool2d lp_pool3d", _NORM, {}),
)  # fmt: skip
for _names, _formula, _fields in _POOLS:
    for _name in _names.split():
        if hasattr(F, _name):
            _pools(*forms(_name), **{"convention": BOUND} | _fields)(native(getattr(F, _name), __name__, _formula))


@_pools(
    *present("max_unpool1d", "max_unpool2d", "max_unpool3d"),
    convention=BOUND,
    channels=_unpool_channels,
    couples=True,
    context=True,
)
def unpool(flow: LayerContext, input: Tensor, indices: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """mean(x) per channel at every position: the positions of the elements depend on data."""
    shape = flow.on_shapes().shape
    return input.mean(list(range(2, input.dim())), keepdim=True).expand(shape)


@_pools(*forms("interpolate", "upsample"), means=Means.LINEAR)
def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """The resampled bounds, exact as the weights are not negative; bicubic is treated as bilinear (no bound)."""
    if mode == "bicubic":
        mode, antialias = "bilinear", False
    return F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)


def _grid_channels(call: ChannelCall, input: Any, grid: Any, *args: Any, **kwargs: Any) -> Any:
    """Sample positions of every channel; protect channels of the grid."""
    own, moved = shape_of(input), shape_of(grid)
    call.protect(grid, f"gives positions to {call.where}")
    return call.resized(input, [own[0], own[1], *moved[1:-1]])


@_pools(*forms("grid_sample"), channels=_grid_channels, context=True)
def grid_sample(flow: LayerContext, input: Tensor, grid: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The sampled bounds for a constant grid (exact unless bicubic); mean(x) + mean(grid) for a grid of data."""
    if not flow.is_data("grid"):
        return F.grid_sample(input, grid, *args, **kwargs)
    positions = list(range(2, input.dim()))
    moved = grid.mean(-1).unsqueeze(1)
    level = input.mean(positions, keepdim=True) if flow.is_data("input") else torch.zeros_like(input[..., :1, :1])
    return (level + moved).expand(input.shape[0], input.shape[1], *moved.shape[2:])


def _affine_channels(call: ChannelCall, theta: Any, *args: Any, **kwargs: Any) -> Any:
    """Positions have no channels; those of the matrices are protected."""
    call.protect(theta, f"gives positions to {call.where}")
    return call.make(call.on_shapes().shape)


@_pools(*present("affine_grid"), convention=BOUND, channels=_affine_channels, context=True)
def affine_grid(flow: LayerContext, theta: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The sum along each row of the matrix: coordinates lie between -1 and 1."""
    shape = flow.on_shapes().shape
    return theta.sum(-1).view(len(theta), *(1,) * (len(shape) - 2), -1).expand(shape)


def _pad_channels(call: ChannelCall, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Proxy:
    """Pad labels; elements added along an axis of channels belong to no channel."""
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
                    call.table.freeze(slot, f"is padded along its own axis by {call.where}")
                slot = _padded(slot, axis, before, after)
            elif before or after:
                sizes = list(slot.shape)
                sizes[axis] += before + after
                slot = slot.narrow(axis, 0, 1).expand(sizes)
        slots.append(canonical(slot))
    return call.make(shape, slots)


def _padded(slot: Tensor, axis: int, before: int, after: int) -> Tensor:
    if before < 0 or after < 0:
        slot = slot.narrow(axis, max(-before, 0), slot.size(axis) - max(-before, 0) - max(-after, 0))
    pieces = []
    for count in (max(before, 0), max(after, 0)):
        sizes = list(slot.shape)
        sizes[axis] = count
        pieces.append(torch.zeros((), dtype=torch.long, device="cpu").expand(sizes))
    return torch.cat([pieces[0], slot, pieces[1]], axis)


@composed(torch.constant_pad_nd)
def constant_pad(input: Any, pad: Any, value: Any = 0) -> Any:
    """Adds constants at the border."""
    return F.pad(input, pad, value=value)


@moves(F.pad, channels=_pad_channels)
def pad(input: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    """Copies border elements, or adds constants, which have bound zero."""
    return F.pad(input, pad, mode)
