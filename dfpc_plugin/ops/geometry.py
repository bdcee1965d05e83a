"""Row and column sums of convolution matrices, without the matrices.

Along one axis, output o reads input p = o * stride - before + k * dilation through kernel entry k, where p is inside
the input. Row sums need, per kernel entry, the outputs whose p is inside; column sums need how often each input is
read. Both are small tables per axis, and the sums over all axes follow by one contraction per axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


def require_channels(input: Sequence[int], axis: int, taken: int) -> None:
    """Raise RuntimeError, like the operator itself, where a rule would broadcast an input of one channel."""
    if input[axis] != taken:
        raise RuntimeError(f"an input {tuple(input)} has {input[axis]} in place of {taken} channels")


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: lengths of input (`size`), output and kernel, steps, and padding `before` the input."""

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    before: int


Sizes = int | Sequence[int]


def convolution_axes(
    input: Sequence[int], weight: Sequence[int], stride: Sizes, padding: str | Sizes, dilation: Sizes
) -> list[Axis]:
    """Return the axes of a convolution, from the shapes of its input and its weight."""
    count = len(weight) - 2
    steps, spacings = spell_out(stride, count), spell_out(dilation, count)
    reaches = [spacing * (kernel - 1) for spacing, kernel in zip(spacings, weight[2:], strict=True)]
    numbers = zip(input[-count:], weight[2:], steps, spacings, reaches, padding_sides(padding, reaches), strict=True)
    return [
        Axis(size, (size + before + after - reach - 1) // step + 1, kernel, step, spacing, before)
        for size, kernel, step, spacing, reach, (before, after) in numbers
    ]


def transposed_axes(
    input: Sequence[int], weight: Sequence[int], stride: Sizes, padding: Sizes, output_padding: Sizes, dilation: Sizes
) -> list[Axis]:
    """Return, for a transposed convolution, the axes of its adjoint convolution, whose *output* is the input."""
    count = len(weight) - 2
    numbers = (spell_out(value, count) for value in (stride, padding, output_padding, dilation))
    return [
        Axis((size - 1) * step - 2 * before + spacing * (kernel - 1) + more + 1, size, kernel, step, spacing, before)
        for size, kernel, step, before, more, spacing in zip(input[-count:], weight[2:], *numbers, strict=True)
    ]


@lru_cache(maxsize=512)
def _tables(axis: Axis, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per kernel entry: the outputs it serves, `(kernel, out)`, and how often it reads each input, `(kernel, size)`."""
    outputs = torch.arange(axis.out, device="cpu")
    entries = torch.arange(axis.kernel, device="cpu")[:, None]
    positions = outputs * axis.stride - axis.before + entries * axis.dilation
    inside = (positions >= 0) & (positions < axis.size)
    counts = torch.zeros(axis.kernel, axis.size, dtype=torch.float32, device="cpu")
    counts.scatter_add_(1, positions.clamp(0, axis.size - 1), inside.float())
    return inside.to(device, dtype), counts.to(device, dtype)


def spread(kernel_sums: Tensor, axes: Sequence[Axis], *, over: str) -> Tensor:
    """Spread `kernel_sums (channels, *kernel)`, of the absolute kernel over the channels on the other side, over positions.

    Returns `(channels, *sizes)`: row sums of the convolution's matrix over its `outputs`, or column sums over its `inputs`.
    """
    for axis in axes:
        served, counts = _tables(axis, kernel_sums.dtype, kernel_sums.device)
        kernel_sums = torch.tensordot(kernel_sums, served if over == "outputs" else counts, dims=([1], [0]))
    return kernel_sums


def spell_out(value: Sizes, length: int) -> tuple[int, ...]:
    """Return torch's int-or-sequence argument as a tuple of `length` numbers."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * length if len(values) == 1 else values


def padding_sides(padding: str | Sizes, reach: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and after each axis; `reach` is dilation * (kernel - 1) per axis."""
    if isinstance(padding, str):
        return [(r // 2, r - r // 2) if padding == "same" else (0, 0) for r in reach]
    return [(side, side) for side in spell_out(padding, len(reach))]
