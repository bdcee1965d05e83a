"""Channels of convolutions: one axis of the weight has the input channels, another the output channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.combine import Operand, meet, sum_away
from dfpc_plugin.ops.geometry import convolution_axes, require_channels, transposed_axes
from dfpc_plugin.ops.linear import weight_rows
from dfpc_plugin.tracing.axes import canonical, inner_axis, squeezed, varying
from dfpc_plugin.tracing.proxy import Proxy, shape_of, slots_of


def convolution_channels(
    call: ChannelCall,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> Proxy:
    """Read the input's channels along axis one of the weight, group by group; write axis zero."""
    own, sizes = shape_of(input), shape_of(weight)
    axes = [int(axis.out) for axis in convolution_axes(own, sizes, stride, padding, dilation)]
    out = torch.Size([*own[: -len(axes) - 1], sizes[0], *axes])
    return _convolved(call, input, weight, bias, groups, out, transposed=False)


def transposed_channels(
    call: ChannelCall,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> Proxy:
    """Read the input's channels along axis zero of the weight; write axis one, group by group."""
    own, sizes = shape_of(input), shape_of(weight)
    axes = [int(axis.size) for axis in transposed_axes(own, sizes, stride, padding, output_padding, dilation)]
    out = torch.Size([*own[: -len(axes) - 1], sizes[1] * int(groups), *axes])
    return _convolved(call, input, weight, bias, groups, out, transposed=True)


def _convolved(
    call: ChannelCall, input: Any, weight: Any, bias: Any, groups: Any, out: torch.Size, *, transposed: bool
) -> Proxy:
    """Lay input and weight out on `(batch, group, out, in)` and sum over the inputs of each group."""
    own, sizes = shape_of(input), shape_of(weight)
    kernel = len(sizes) - 2
    lead = own[: -kernel - 1]
    channel = len(lead)
    positions = out[channel + 1 :].numel() if not transposed else shape_of(input)[channel + 1 :].numel()
    reads, writes = (0, 1) if transposed else (1, 0)
    call.layer(weight, input, reads=reads, writes=writes, along=channel, positions=positions * lead.numel())
    require_channels(own, channel, sizes[0] if transposed else sizes[1] * int(groups))
    plain = None if transposed else _plain_channels(call, input, weight, groups, channel)
    if plain is not None:
        result = call.make(out, [plain.view(*[1] * channel, -1, *[1] * kernel)])
    else:
        result = call.make(out, _grouped_channels(call, input, weight, groups, out, transposed=transposed))
    if bias is not None:
        call.biased(weight, bias)
        shaped = None if channel == 1 else bias.reshape(-1, *[1] * kernel)
        result = call.per_channel(result, [bias]) if shaped is None else call.elementwise(result, shaped)
    result.rows = () if transposed else weight_rows(weight, result, channel)
    return result


def _plain_channels(call: ChannelCall, input: Any, weight: Any, groups: Any, channel: int) -> Tensor | None:
    """Output channels of an ungrouped or depthwise convolution with one label layer per operand; else None."""
    slots: tuple[Tensor, ...] = slots_of(input)
    own: tuple[Tensor, ...] = slots_of(weight)
    if len(slots) != 1 or len(own) != 2 or varying(slots[0]) != (channel,) or varying(own[0]) != (0,):
        return None
    read = slots[0].movedim(channel, 0).flatten(1)[:, 0]
    writes, reads = own[0].flatten(1)[:, 0], own[1].flatten(2)[:, :, 0]
    if int(groups) == 1 and varying(own[1]) == (1,):
        call.table.unite(reads[0], read, call.where)
    elif int(groups) == len(read) == len(writes) and varying(own[1]) == (0,):
        call.table.unite(reads[:, 0], read, call.where)
        call.table.unite(writes, read, call.where)
        call.size(writes, 0, groups)
    else:
        return None
    return writes


def _grouped_channels(
    call: ChannelCall, input: Any, weight: Any, groups: Any, out: torch.Size, *, transposed: bool
) -> list[Tensor]:
    """Labels of a convolution's outputs, for any groups and any labels of its input."""
    count, kernel = int(groups), len(shape_of(weight)) - 2
    channel = len(shape_of(input)) - kernel - 1
    first = _of_weight(weight, count, transposed)
    second = _of_input(call, input, channel, count)
    grouped = Operand(tuple(slot for slot, _ in second), _full({0: count, 2: shape_of(input)[channel] // count}))
    sizes = shape_of(weight)
    outs = sizes[1] if transposed else sizes[0] // count
    ins = sizes[0] // count if transposed else sizes[1]
    if count > 1 and ins == 1 and second:
        _depthwise(call, first, grouped)
    expanded = getattr(weight, "spread", {})
    spread = {0: expanded[0]} if 0 in expanded and count > 1 == outs else {}
    kernels = Operand(tuple(first), _full({0: count, 1: outs, 2: ins}), spread=spread)
    merged = meet(call.table, [kernels, grouped], call.where)
    left = sum_away(call.table, merged, [2], call.where)
    _note_groups(call, [*merged, *left], groups)
    slots = [slot[:, :, 0].expand(count, outs).reshape(count * outs) for slot in left]
    expanded = [slot.view(*[1] * channel, -1, *[1] * kernel) for slot in slots]
    return expanded + _carried(call, input, channel, out)


def _of_weight(weight: Any, count: int, transposed: bool) -> list[Tensor]:
    """Labels of a weight, `(groups, out, in)`."""
    laid = []
    for slot in slots_of(weight):
        kernel_free = slot.flatten(2)[..., 0] if slot.dim() > 2 else slot
        rows = kernel_free.unflatten(0, (count, -1))
        laid.append(canonical(rows.transpose(1, 2) if transposed else rows))
    return laid


def _of_input(call: ChannelCall, input: Any, channel: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Labels along an input's channel axis, `(groups, 1, in)`; channels that differ between positions are united."""
    laid = []
    for slot in slots_of(input):
        if not _reads(slot, channel):
            continue
        others = [axis for axis in varying(slot) if axis != channel]
        first = call.table.unite_along(slot, others, call.where) if others else slot
        index = tuple(slice(None) if axis == channel else 0 for axis in range(slot.dim()))
        laid.append((canonical(first[index].view(count, 1, -1)), slot))
    return laid


def _reads(slot: Tensor, channel: int) -> bool:
    """Whether the layer reads the labels of an input as channels. In a map they may differ between positions, too."""
    return inner_axis(slot) == channel or (channel in varying(slot) and slot.dim() > channel + 2)


def _carried(call: ChannelCall, input: Any, channel: int, out: torch.Size) -> list[Tensor]:
    """Labels along axes other than the channel axis (channels laid out as positions), which the kernel preserves."""
    carried = []
    for slot in slots_of(input):
        if _reads(slot, channel):
            continue
        slot = call.table.unite_along(slot, [channel], call.where)
        if any(slot.size(axis) != out[axis] for axis in varying(slot)):
            call.freeze(slot, f"lies along an axis that {call.where} resamples")
        else:
            carried.append(squeezed(slot))
    return carried


def _depthwise(call: ChannelCall, weight: list[Tensor], input: Operand) -> None:
    """Unite every input channel with the output channels that are computed from it."""
    for slot in weight:
        if 0 not in varying(slot):
            continue
        if 1 in varying(slot):
            call.table.unite_along(slot, [1], call.where)
        for other in input.slots:
            call.table.unite(slot[:, :1, :1], other, call.where)


def _note_groups(call: ChannelCall, slots: list[Tensor], groups: Any) -> None:
    """Require equally many channels in every group, and the layer's number of groups."""
    if int(groups) == 1:
        return
    for slot in slots:
        if 0 in varying(slot):
            call.size(slot, 0, groups)
            inner = varying(slot)[-1]
            if inner:
                call.size(slot, inner, None, flexible=inner)


def _full(sizes: dict[int, int]) -> frozenset[int]:
    return frozenset(axis for axis, size in sizes.items() if size > 1)
