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
from dfpc_plugin.analyses.moments import aligned, mean_of, per_channel, real_values
from dfpc_plugin.ops.convolution_channels import convolution_channels, transposed_channels
from dfpc_plugin.ops.geometry import Sizes, convolution_axes, require_channels, spread, transposed_axes
from dfpc_plugin.ops.linear import per_channel_sum, row_sums, variances_by_channel
from dfpc_plugin.ops.record import EXACT, composed, operator
from dfpc_plugin.tracing.operator import forms
from dfpc_plugin.tracing.proxy import is_data

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
