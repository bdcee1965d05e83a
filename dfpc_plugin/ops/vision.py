"""Operators of torchvision, registered by name so that torchvision need not be installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.ops.convolution import convolution, convolution_channels
from dfpc_plugin.ops.record import APPROXIMATION
from dfpc_plugin.tracing.axes import varying
from dfpc_plugin.tracing.operator import Operator, register_name
from dfpc_plugin.tracing.proxy import Proxy, slots_of


def _are_positions(call: ChannelCall, *given: Any) -> None:
    """Protect the channels of offsets, masks and boxes: each refers to positions of the image."""
    for tensor in given:
        call.protect(tensor, f"gives positions to {call.where}")


def _deformed_channels(
    call: ChannelCall, input: Any, weight: Any, offset: Any, mask: Any, bias: Any, stride_h: int, stride_w: int, pad_h: int,
    pad_w: int, dil_h: int, dil_w: int, groups: int, offset_groups: int, use_mask: bool,
) -> Any:  # fmt: skip
    """Like a convolution; inputs that share offsets form groups, which keep equally many channels."""
    _are_positions(call, offset, mask)
    slot = input.labels_along(1) if isinstance(input, Proxy) else None
    if slot is not None and int(offset_groups) > 1:
        rows = slot.movedim(1, -1).unflatten(-1, (int(offset_groups), -1))
        call.size(rows, rows.dim() - 1, None, flexible=rows.dim() - 1)
    steps, padding, dilation = (stride_h, stride_w), (pad_h, pad_w), (dil_h, dil_w)
    return convolution_channels(call, input, weight, bias, steps, padding, dilation, groups)


def _deformed(
    flow: LayerContext, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, stride_h: int, stride_w: int,
    pad_h: int, pad_w: int, dil_h: int, dil_w: int, groups: int, offset_groups: int, use_mask: bool,
) -> Tensor:  # fmt: skip
    """|W| * x with offsets zero and masks one."""
    return convolution(flow, input, weight, None, (stride_h, stride_w), (pad_h, pad_w), (dil_h, dil_w), groups)


def _pooled_channels(call: ChannelCall, input: Any, rois: Any, *args: Any) -> Any:
    """Keep the input's channels; protect those of boxes."""
    _are_positions(call, rois)
    shape = call.on_shapes()
    shape = (shape if isinstance(shape, Tensor) else shape[0]).shape
    slots = []
    for slot in slots_of(input):
        if varying(slot) == (1,):
            slots.append(slot[:1, :, :1, :1])
        else:
            call.table.freeze(slot, f"lies along an axis that {call.where} resamples")
    return call.make(shape, slots)


def _aligned(flow: LayerContext, input: Tensor, rois: Tensor, *args: Any) -> Tensor:
    """The largest element of every channel: boxes are assumed not to move."""
    shape = flow.on_shapes().shape
    if not flow.is_data("input"):
        return torch.zeros((), dtype=rois.dtype, device=rois.device).expand(shape)
    return input.amax((0, 2, 3)).view(1, -1, 1, 1).expand(shape)


register_name(
    "torchvision::deform_conv2d", Operator(_deformed, APPROXIMATION, _deformed_channels, kind="layer", context=True)
)
register_name("torchvision::roi_align", Operator(_aligned, APPROXIMATION, _pooled_channels, context=True))
