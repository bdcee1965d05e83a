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

__all__ = ["apply_linear", "read_linear", "write_linear"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _tuple(value: int | Sequence[int], length: int) -> tuple[int, ...]:
    """Spell out torch's int-or-sequence arguments."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * length if len(values) == 1 else values


def _sides(padding: str | int | Sequence[int], reach: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each axis, for a kernel that reaches `reach` = dilation * (size - 1) further."""
    if padding == "valid":
        return (0,) * len(reach), (0,) * len(reach)
    if padding == "same":
        before = tuple(r // 2 for r in reach)
        return before, tuple(r - b for r, b in zip(reach, before, strict=True))
    assert not isinstance(padding, str)
    sides = _tuple(padding, len(reach))
    return sides, sides


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
    stride, dilation = _tuple(stride, axes), _tuple(dilation, axes)
    size, kernel = input.shape[-axes:], weight.shape[2:]
    per_output = weight.sum(1, keepdim=True)
    per_input = weight.unflatten(0, (groups, -1)).sum(1).flatten(0, 1)
    before, after = _sides(padding, [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)])
    pointwise = all(k == 1 for k in kernel) and not any(before)
    if pointwise:
        seen = _window(input, [slice(None, None, s) for s in stride])
        flow.read(name, _per_channel_sum(seen, axes) @ per_input.flatten())
        out_size = seen.shape[-axes:]
        leaf = flow.write(name, per_output.flatten().view(-1, *(1,) * axes), channel_dim=0)
    else:
        ones = torch.ones((1, 1, *size), dtype=input.dtype, device=input.device)
        bound = native(ones, per_output, None, stride, padding, dilation)[0]
        out_size = bound.shape[1:]
        flow.read(name, (input * _gain(per_input, size, out_size, stride, dilation, before, after)).sum())
        leaf = flow.write(name, bound, channel_dim=0)
    return leaf.expand(*input.shape[: -axes - 1], leaf.shape[0], *out_size)


def _window(tensor: Tensor, slices: Sequence[slice]) -> Tensor:
    """Slice the last axes."""
    return tensor[tuple([slice(None)] * (tensor.dim() - len(slices)) + list(slices))]


def _gain(
    per_input: Tensor,
    size: Sequence[int],
    out_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
) -> Tensor:
    """Column sums of |M|, `(1, C_in, *size)`: the adjoint convolution of ones, border effects included."""
    padded = [s + b + a for s, b, a in zip(size, before, after, strict=True)]
    unreached = [
        p - ((o - 1) * s + d * (k - 1) + 1)
        for p, o, s, d, k in zip(padded, out_size, stride, dilation, per_input.shape[1:], strict=True)
    ]
    ones = torch.ones((1, 1, *out_size), dtype=per_input.dtype, device=per_input.device)
    gain = _CONV_TRANSPOSE[len(size)](ones, per_input[None], None, tuple(stride), 0, 0, 1, tuple(dilation))
    gain = F.pad(gain, [side for u in reversed(unreached) for side in (0, u)])
    return _window(gain, [slice(b, b + s) for b, s in zip(before, size, strict=True)])


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
    size = input.shape[-axes:]
    per_output = weight.unflatten(0, (groups, -1)).sum(1).flatten(0, 1)
    per_input = weight.sum(1, keepdim=True)
    ones = torch.ones((1, 1, *size), dtype=input.dtype, device=input.device)
    bound = native(ones, per_output[None], None, stride, padding, output_padding, 1, dilation)[0]
    reached = torch.ones((1, 1, *bound.shape[1:]), dtype=input.dtype, device=input.device)
    gain = _CONV[axes](reached, per_input, None, stride, padding, dilation)
    flow.read(name, (input * _window(gain, [slice(0, s) for s in size])).sum())
    leaf = flow.write(name, bound, channel_dim=0)
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


def _per_channel_sum(input: Tensor, axes: int) -> Tensor:
    """Sum `(..., C, *axes)` to `(C,)`."""
    channel = input.dim() - axes - 1
    return input.sum([dim for dim in range(input.dim()) if dim != channel])


def read_linear(flow: LayerContext, name: str, input: Tensor, weight: Tensor) -> None:
    """Read `input (..., C_in)` by the absolute matrix `weight (C_out, C_in)`."""
    flow.read(name, _per_channel_sum(input, 0) @ weight.sum(0))


def write_linear(flow: LayerContext, name: str, weight: Tensor, leading: Sequence[int]) -> Tensor:
    """Write the row sums of the absolute matrix `weight (C_out, C_in)` to `(*leading, C_out)`."""
    return flow.write(name, weight.sum(1), channel_dim=0).expand(*leading, weight.shape[0])


def apply_linear(flow: LayerContext, name: str, input: Tensor, weight: Tensor) -> Tensor:
    """Read and write one linear layer; `weight (C_out, C_in)` may have signs."""
    weight = weight.abs()
    read_linear(flow, name, input, weight)
    return write_linear(flow, name, weight, input.shape[:-1])


@rule(*forms("linear"), convention=Convention.EXACT, context=True)
def linear(flow: LayerContext, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """|W| x, bias dropped: read sum(|W| x), write |W| 1."""
    return apply_linear(flow, flow.name("weight"), input, weight)


@rule(*forms("embedding"), convention=Convention.BOUND, context=True)
def embedding(flow: LayerContext, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Writes the largest |W[token, c]| over tokens; reads nothing."""
    return flow.write(flow.name("weight"), weight.abs().amax(0), channel_dim=0).expand(*input.shape, weight.shape[1])
