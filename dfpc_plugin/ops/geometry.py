"""Sums of convolution matrices without the matrices.

Along one axis a convolution connects output o to input p through kernel entry k when p = o * stride - before + k * dilation
and p is inside. Row sums of the matrix need, per kernel entry, which outputs it serves; column sums need how many outputs
it serves at each input. Both are small tables per axis, and the sums over all axes follow by one contraction per axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Axis", "padding_sides", "spell_out", "spread"]


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution.

    Attributes:
        size: Length of the convolution's input.
        out: Length of its output.
        kernel: Length of its kernel.
        stride: Step between outputs.
        dilation: Step between kernel entries.
        before: Padding in front of the input.
    """

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    before: int

    @staticmethod
    def of_convolution(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> Axis:
        """The axis of a convolution with padding `before` and `after`."""
        out = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
        return Axis(size, out, kernel, stride, dilation, before)

    @staticmethod
    def of_transposed(size: int, kernel: int, stride: int, dilation: int, padding: int, output_padding: int) -> Axis:
        """The axis of the convolution that a transposed convolution is the adjoint of: `size` is *its* output."""
        full = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
        return Axis(full, size, kernel, stride, dilation, padding)


@lru_cache(maxsize=512)
def _tables(axis: Axis, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per kernel entry: outputs it serves, `(kernel, out)`, and how often it serves each input, `(kernel, size)`."""
    outputs = torch.arange(axis.out, device="cpu")
    entries = torch.arange(axis.kernel, device="cpu")[:, None]
    positions = outputs * axis.stride - axis.before + entries * axis.dilation
    inside = (positions >= 0) & (positions < axis.size)
    counts = torch.zeros(axis.kernel, axis.size, dtype=torch.float32, device="cpu")
    counts.scatter_add_(1, positions.clamp(0, axis.size - 1), inside.float())
    return inside.to(device, dtype), counts.to(device, dtype)


def spread(kernel_sums: Tensor, axes: Sequence[Axis], *, over: str) -> Tensor:
    """Spread `kernel_sums (channels, *kernel)` over positions.

    Args:
        kernel_sums: The absolute kernel, summed over the channels at the other end.
        axes: One per axis of the kernel.
        over: `outputs` for row sums of the convolution's matrix, `inputs` for its column sums.

    Returns:
        `(channels, *sizes)`.
    """
    for axis in axes:
        served, counts = _tables(axis, kernel_sums.dtype, kernel_sums.device)
        kernel_sums = torch.tensordot(kernel_sums, served if over == "outputs" else counts, dims=([1], [0]))
    return kernel_sums


def spell_out(value: int | Sequence[int], length: int) -> tuple[int, ...]:
    """Spell out torch's int-or-sequence arguments."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * length if len(values) == 1 else values


def padding_sides(padding: str | int | Sequence[int], reach: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and after each axis, for a kernel that reaches `reach` = dilation * (size - 1) further."""
    if isinstance(padding, str):
        return [(r // 2, r - r // 2) if padding == "same" else (0, 0) for r in reach]
    return [(side, side) for side in spell_out(padding, len(reach))]
