"""Layers that mix channels: each ends the couplings that reach it and starts one of its own.

For the matrix M of such a layer, entry-wise absolute and at its true input size:
    read:   total = sum(|M| x)          every output changes by at most its entry of |M| x
    write:  u = |M| 1                   what the layer can produce from inputs bounded by one
Neither needs |M| x itself: sums of all entries need the kernel summed over its outputs, and an input of ones needs it
summed over its inputs, so both cost one channel of a convolution. Depthwise convolutions mix nothing and belong to the
transform between layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.flow.layer import LayerContext
from dfpc_plugin.flow.registry import Convention, forms, rule
from dfpc_plugin.flow.rules.geometry import Axis, padding_sides, spell_out, spread

__all__ = ["apply_linear", "read_linear", "write_linear"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@rule(*forms("conv1d", "conv2d", "conv3d"), convention=Convention.EXACT, context=True)
def convolution(
    flow: LayerContext,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """|W| * x, bias dropped. Depthwise: part of the transform. Otherwise: read sum(|W| * x), write |W| * 1."""
    weight = weight.abs()
    axes = weight.dim() - 2
    native = _CONV[axes]
    if groups == input.shape[-axes - 1] > 1:
        return native(input, weight, None, stride, padding, dilation, groups)
    name = flow.name("weight")
    steps, dilations = spell_out(stride, axes), spell_out(dilation, axes)
    size, kernel = input.shape[-axes:], weight.shape[2:]
    sides = padding_sides(padding, [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)])
    geometry = [
        Axis.of_convolution(s, k, step, d, *side)
        for s, k, step, d, side in zip(size, kernel, steps, dilations, sides, strict=True)
    ]
    per_output = _row_sums(flow, weight, input, axes, groups)
    per_input = weight.unflatten(0, (groups, -1)).sum(1).flatten(0, 1)
    if all(k == 1 and side == (0, 0) for k, side in zip(kernel, sides, strict=True)):
        seen = _every(input, steps)
        flow.read(name, _per_channel_sum(seen, axes) @ per_input.flatten())
        leaf = flow.write(name, per_output, channel_dim=0)
    else:
        flow.read(name, (input * spread(per_input, geometry, over="inputs")).sum())
        leaf = flow.write(name, spread(per_output, geometry, over="outputs"), channel_dim=0)
    return leaf.expand(*input.shape[: -axes - 1], leaf.shape[0], *(axis.out for axis in geometry))


@rule(
    *forms("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), convention=Convention.EXACT, context=True
)
def transposed_convolution(
    flow: LayerContext,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """|W| transposed-* x, bias dropped. Depthwise: part of the transform. Otherwise: read and write like a conv."""
    weight = weight.abs()
    axes = weight.dim() - 2
    native = _CONV_TRANSPOSE[axes]
    if groups == input.shape[-axes - 1] > 1:
        return native(input, weight, None, stride, padding, output_padding, groups, dilation)
    name = flow.name("weight")
    geometry = [
        Axis.of_transposed(*numbers)
        for numbers in zip(
            input.shape[-axes:],
            weight.shape[2:],
            *(spell_out(value, axes) for value in (stride, dilation, padding, output_padding)),
            strict=True,
        )
    ]
    arriving = weight * _variances(input, axes).view(-1, *(1,) * (axes + 1)) if flow.expected else weight
    per_output = arriving.unflatten(0, (groups, -1)).sum(1).flatten(0, 1)
    flow.read(name, (input * spread(weight.sum(1), geometry, over="outputs")).sum())
    leaf = flow.write(name, spread(per_output, geometry, over="inputs"), channel_dim=0)
    return leaf.expand(*input.shape[: -axes - 1], *leaf.shape)


@rule(torch._convolution, convention=Convention.EXACT, context=True)
def traced_convolution(
    flow: LayerContext,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *backend_flags: bool,
) -> Tensor:
    """|W| * x as traced TorchScript spells it."""
    if transposed:
        return transposed_convolution(
            flow, input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return convolution(flow, input, weight, bias, stride, padding, dilation, groups)


def _every(input: Tensor, steps: Sequence[int]) -> Tensor:
    """Keep every n-th position of the last axes."""
    if max(steps) == 1:
        return input
    leading = [slice(None)] * (input.dim() - len(steps))
    return input[tuple(leading + [slice(None, None, step) for step in steps])]


def _per_channel_sum(input: Tensor, axes: int) -> Tensor:
    """Sum `(..., C, *axes)` to `(C,)`."""
    channel = input.dim() - axes - 1
    return input.sum([dim for dim in range(input.dim()) if dim != channel])


def read_linear(flow: LayerContext, name: str, input: Tensor, weight: Tensor) -> None:
    """Read `input (..., C_in)` by the absolute matrix `weight (C_out, C_in)`."""
    flow.read(name, _per_channel_sum(input, 0) @ weight.sum(0))


def write_linear(flow: LayerContext, name: str, weight: Tensor, input: Tensor, leading: Sequence[int]) -> Tensor:
    """Write the row sums of the absolute matrix `weight (C_out, C_in)`, applied to `input`, to `(*leading, C_out)`."""
    rows = _row_sums(flow, weight, input, 0, 1)
    return flow.write(name, rows, channel_dim=0).expand(*leading, weight.shape[0])


def _row_sums(flow: LayerContext, weight: Tensor, input: Tensor, axes: int, groups: int) -> Tensor:
    """Sum `weight (groups * C_out, C_in, ...)` over what arrives: ones, or the variances of `input` by channel."""
    if not flow.expected:
        return weight.sum(1)
    variances = _variances(input, axes)
    if groups == 1:
        return torch.tensordot(weight, variances, dims=([1], [0]))
    by_group = variances.view(groups, 1, -1, *(1,) * axes)
    return (weight.unflatten(0, (groups, -1)) * by_group).sum(2).flatten(0, 1)


def _variances(input: Tensor, axes: int) -> Tensor:
    """Average the variances of `(..., C, *axes)` by channel."""
    channel = input.dim() - axes - 1
    return input.detach().mean([dim for dim in range(input.dim()) if dim != channel])


def apply_linear(flow: LayerContext, name: str, input: Tensor, weight: Tensor) -> Tensor:
    """Read and write one linear layer; `weight (C_out, C_in)` may have signs."""
    weight = weight.abs()
    read_linear(flow, name, input, weight)
    return write_linear(flow, name, weight, input, input.shape[:-1])


@rule(*forms("linear"), convention=Convention.EXACT, context=True)
def linear(flow: LayerContext, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """|W| x, bias dropped: read sum(|W| x), write |W| 1."""
    return apply_linear(flow, flow.name("weight"), input, weight)


@rule(*forms("embedding"), convention=Convention.BOUND, context=True)
def embedding(flow: LayerContext, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Writes the largest |W[token, c]| over tokens; reads nothing."""
    return flow.write(flow.name("weight"), weight.abs().amax(0), channel_dim=0).expand(*input.shape, weight.shape[1])
