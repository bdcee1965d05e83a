"""Convolutions: their weight has one axis of input channels and one of output channels.

They read and write couplings as linear layers do. The kernel is summed over the channels on one side and spread over
positions, which costs as much as a convolution with one channel. Depthwise convolutions mix no channels and are part of the
transform between two layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.combine import Operand, meet, sum_away
from dfpc_plugin.analyses.moments import aligned, mean_of, per_channel, real_values
from dfpc_plugin.analyses.table import KERNEL_POSITION
from dfpc_plugin.ops.geometry import Sizes, convolution_axes, require_channels, spread, transposed_axes
from dfpc_plugin.ops.linear import per_channel_sum, row_sums, variances_by_channel, weight_rows
from dfpc_plugin.ops.record import EXACT, composed, operator
from dfpc_plugin.tracing.axes import canonical, inner_axis, squeezed, varying
from dfpc_plugin.tracing.operator import forms
from dfpc_plugin.tracing.proxy import Proxy, is_data, shape_of, slots_of

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
    for slot in getattr(weight, "slots", ()):
        if min(varying(slot), default=0) > 1:  # of a parameter outside of a layer, every dimension is labelled
            call.table.freeze(slot, KERNEL_POSITION)
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
    return expanded + _carried(call, input, channel, out, sizes)


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


def _carried(call: ChannelCall, input: Any, channel: int, out: torch.Size, weight: torch.Size) -> list[Tensor]:
    """Labels along axes other than the channel axis (channels laid out as positions), which the kernel preserves.

    A kernel that combines neighbours along them protects them. ECA's, of one channel to one, is let through: after pruning,
    its gate looks at the neighbours that remain.
    """
    carried = []
    is_eca = len(weight) == 3 and tuple(weight[:2]) == (1, 1)
    window = () if is_eca else [channel + 1 + axis for axis, size in enumerate(weight[2:]) if size > 1]
    for slot in slots_of(input):
        if _reads(slot, channel):
            continue
        slot = call.table.unite_along(slot, [channel], call.where)
        if any(slot.size(axis) != out[axis] or axis in window for axis in varying(slot)):
            call.table.freeze(slot, f"lies along an axis that {call.where} resamples")
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


def _noise(given: Mapping[str, Any], variance: Tensor) -> Any:
    """W m + b, without border effects."""
    mean, weight = mean_of(given.get("input")), given["weight"]
    if mean is None or is_data(weight) or not per_channel(mean, weight.dim() - 2):
        return variance, None
    sums = real_values(weight).to(variance.dtype).flatten(2).sum(2)
    groups = int(given.get("groups", 1))
    by_group = mean.reshape(-1).expand(sums.shape[1] * groups).view(groups, 1, -1)
    mapped = (sums.view(groups, -1, sums.shape[1]) * by_group).sum(2).flatten()
    bias = given.get("bias")
    return variance, aligned(mapped if bias is None else mapped + real_values(bias).to(variance.dtype), variance, 1)


@operator(
    *forms("conv1d", "conv2d", "conv3d"), convention=EXACT, channels=convolution_channels, noise=_noise,
    context=True, kind="layer",
)  # fmt: skip
def convolution(
    flow: LayerContext,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """|W| * x, bias dropped. Depthwise: part of the transform. Otherwise: read sum(|W| * x), write |W| * 1."""
    weight = weight.abs()
    axes = weight.dim() - 2
    native = _CONV[axes]
    if groups == input.shape[-axes - 1] > 1:
        return native(input, weight, None, stride, padding, dilation, groups)
    name, geometry = flow.name("weight"), convolution_axes(input.shape, weight.shape, stride, padding, dilation)

    def whole() -> Tensor:
        return native(input, weight, None, stride, padding, dilation, groups)

    per_output = row_sums(flow, weight, input, axes, groups)
    per_input = weight.unflatten(0, (groups, -1)).sum(1).flatten(0, 1)
    if all(axis.kernel == 1 and axis.before == 0 for axis in geometry):
        every: Any = (..., *(slice(None, None, axis.stride) for axis in geometry))
        seen = input if all(axis.stride == 1 for axis in geometry) else input[every]
        flow.read(name, per_channel_sum(seen, axes) @ per_input.flatten())
        leaf = flow.write(name, per_output, 0, whole)
    else:
        flow.read(name, (input * spread(per_input, geometry, over="inputs")).sum())
        leaf = flow.write(name, spread(per_output, geometry, over="outputs"), 0, whole)
    return leaf.expand(*input.shape[: -axes - 1], leaf.shape[-axes - 1], *(axis.out for axis in geometry))


@operator(
    *forms("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), convention=EXACT,
    channels=transposed_channels, context=True, kind="layer",
)  # fmt: skip
def transposed_convolution(
    flow: LayerContext,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """|W| transposed-* x, bias dropped. Depthwise: part of the transform. Otherwise: read and write like a convolution."""
    weight = weight.abs()
    axes = weight.dim() - 2
    native = _CONV_TRANSPOSE[axes]
    if groups == input.shape[-axes - 1] > 1:
        return native(input, weight, None, stride, padding, output_padding, groups, dilation)
    require_channels(input.shape, -axes - 1, weight.shape[0])
    name = flow.name("weight")
    geometry = transposed_axes(input.shape, weight.shape, stride, padding, output_padding, dilation)
    arriving = weight * variances_by_channel(input, axes).view(-1, *(1,) * (axes + 1)) if flow.expected else weight
    per_output = arriving.unflatten(0, (groups, -1)).sum(1).flatten(0, 1)
    flow.read(name, (input * spread(weight.sum(1), geometry, over="outputs")).sum())

    def whole() -> Tensor:
        return native(input, weight, None, stride, padding, output_padding, groups, dilation)

    leaf = flow.write(name, spread(per_output, geometry, over="inputs"), 0, whole)
    return leaf.expand(*input.shape[: -axes - 1], *leaf.shape[-axes - 1 :])


@composed(torch._convolution)
def traced_convolution(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: Any,
    *backend_flags: bool,
) -> Any:  # fmt: skip
    """A convolution in the form that traced TorchScript uses."""
    if transposed:
        return _CONV_TRANSPOSE[weight.dim() - 2](input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _CONV[weight.dim() - 2](input, weight, bias, stride, padding, dilation, groups)
