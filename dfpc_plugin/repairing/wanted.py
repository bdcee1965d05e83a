"""The reconstruction targets of a layer in the pruned model."""

from __future__ import annotations

import torch
from torch import Tensor

from dfpc_plugin.repairing.follow import Settlement

_SMALLEST = 1e-2
"""A channel whose scale is below this share of the mean is not corrected for the sum's error."""


def wanted_output(
    original: Settlement, pruned: Settlement, kept: Tensor | None, factors: Tensor | None = None
) -> Tensor:
    """Return the target of a layer's output, in the same layout.

    It is the output in the unpruned model. If the output is added to other data `r` at the end of its tail, `t(y) + r`,
    the target also corrects the error of `r`, so that the sum equals that of the unpruned model: `y + t^-1(error)`. A
    tail only scales and moves entries, so its inverse is its transpose divided by the squared scales.

    Args:
        original: The layer in the unpruned model.
        pruned: The same in the pruned one.
        kept: Which outputs remain, `(outputs,)` of bool; None if all do.
        factors: The factors by which pruning multiplied the remaining outputs; None if it did not.
    """
    axis = original.call.output_axis
    plain = original.output if kept is None else original.output.index_select(axis, _indices(kept, original.output))
    if factors is not None:  # its outputs are no longer on the scale of the original's
        return plain * factors.flatten().to(plain).view(-1, *[1] * (-1 - axis))
    if original.other is None or pruned.other is None:
        return plain
    total = _narrowed(original.value + original.other, pruned.value, kept)
    if total is None:
        return plain
    error = total - pruned.other - pruned.value
    if not pruned.tail:
        return pruned.output + error
    pull = torch.func.vjp(pruned.through_tail, pruned.output)[1]
    scale, moved = pull(torch.ones_like(error))[0], pull(error)[0]
    usable = scale.abs() > _SMALLEST * scale.abs().mean()
    return torch.where(usable, pruned.output + moved / scale.square().clamp_min(1e-30), plain)


def _narrowed(tensor: Tensor, like: Tensor, kept: Tensor | None) -> Tensor | None:
    """Remove pruned channels along the one axis where the shapes differ; None if there is no such axis."""
    if tensor.shape == like.shape:
        return tensor
    if kept is None or tensor.dim() != like.dim():
        return None
    axes = [axis for axis, sizes in enumerate(zip(tensor.shape, like.shape, strict=True)) if sizes[0] != sizes[1]]
    if len(axes) != 1 or (tensor.shape[axes[0]], like.shape[axes[0]]) != (len(kept), int(kept.sum())):
        return None
    return tensor.index_select(axes[0], _indices(kept, tensor))


def _indices(kept: Tensor, like: Tensor) -> Tensor:
    return kept.nonzero().squeeze(1).to(like.device)
