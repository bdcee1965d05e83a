"""What the output of a layer of the pruned model should be."""

from __future__ import annotations

import torch
from torch import Tensor

from dfpc_plugin.repairing.follow import Settlement

__all__ = ["wanted_output"]

_SMALLEST = 1e-2
"""Scales below this share of the mean one are not divided by: a channel that hardly counts need make nothing good."""


def wanted_output(
    original: Settlement, pruned: Settlement, kept: Tensor | None, factors: Tensor | None = None
) -> Tensor:
    """Return what the layer should return, laid out as its output.

    That is what it returns in the unpruned model. Where its output is added to other data `r` at the end of its tail,
    `t(y) + r`, it is what makes the sum come out as in the unpruned model, where `r` was another: `y + t^-1(error)`. A tail
    scales entries and moves them, so its inverse is its transpose over the squares of its scales.

    Args:
        original: The layer in the unpruned model.
        pruned: The same in the pruned one.
        kept: Which outputs are left, `(outputs,)` of bool; None if all are.
        factors: The factors by which the cut multiplied the layer's remaining outputs; None where it did not.
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
    """Leave out what is removed along the axis where the two differ; None if there is no such axis."""
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
