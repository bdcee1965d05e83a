"""What a layer of the pruned model should compute: the kept part of its weights, its constant and its targets."""

from __future__ import annotations

import torch
from torch import Tensor

from dfpc_plugin.repairing.calls import LayerCall
from dfpc_plugin.repairing.follow import Settlement
from dfpc_plugin.repairing.kept import Kept

_ALIKE = 1 - 1e-6
_SMALLEST = 1e-2
"""A channel whose scale is below this share of the mean is not corrected for the sum's error."""


def kept_matrix(original: LayerCall, pruned: LayerCall, kept: Kept) -> Tensor | None:
    """The kept part of the original's weight, `(groups, outputs, entries)`; None if whole groups were removed."""
    matrix: Tensor | None = original.matrix
    outputs, inputs = kept.outputs(original), kept.inputs(original)
    if original.groups != pruned.groups:
        return None
    if matrix is not None and inputs is not None:
        matrix = _chosen(matrix, original.by_entry(inputs), 2)
    if matrix is not None and outputs is not None:
        matrix = _chosen(matrix, outputs.view(original.groups, -1), 1)
    return matrix if matrix is not None and matrix.shape == pruned.matrix.shape else None


def row_factors(original: LayerCall, pruned: LayerCall, kept: Kept) -> Tensor | None:
    """The factors by which pruning multiplied the rows of a weight, `(groups, outputs)`; None if unscaled or unknown.

    Attention divides by the square root of the heads' width, so pruning that makes heads narrower rescales the rows of
    the queries. The targets of the layer are scaled alike.
    """
    before, after = kept_matrix(original, pruned, kept), pruned.matrix
    if before is None:
        return None
    across = (before * after).sum(2)
    norms = before.square().sum(2), after.square().sum(2)
    nothing = (norms[0] == 0) & (norms[1] == 0)
    factors = torch.where(nothing, torch.ones_like(across), across / norms[0].clamp_min(1e-300))
    parallel = nothing | (across > _ALIKE * (norms[0] * norms[1]).sqrt())
    if not bool(parallel.all()) or bool(((factors - 1).abs() < 1e-6).all()):
        return None
    return factors


def _chosen(matrix: Tensor, mask: Tensor, axis: int) -> Tensor | None:
    """Select the entries in `mask`, `(groups, entries)`, along an axis; None if groups would differ in size."""
    counts = mask.sum(1)
    if bool((counts != counts[0]).any()):
        return None
    chosen = matrix.movedim(axis, 1)[mask.to(matrix.device)]
    return chosen.unflatten(0, (len(mask), int(counts[0]))).movedim(1, axis)


def shift_outputs(settlement: Settlement, shift: Tensor) -> None:
    """Add `shift`, `(outputs,)`, to a layer's outputs, through its bias or the running mean of its batch norm.

    `survey` tells whether these belong to this layer alone.
    """
    if settlement.call.bias_is_free:
        assert settlement.call.bias is not None
        settlement.call.bias.data.add_(shift.to(settlement.call.bias))
    elif settlement.norm_mean is not None:
        settlement.norm_mean.sub_(shift.to(settlement.norm_mean))


def kept_shift(shift: Tensor, outputs: Tensor | None, factors: Tensor | None) -> Tensor:
    """The kept entries, `(outputs,)`, of a constant of the unpruned layer, `(groups, outputs)`, times `factors`."""
    flat = shift.flatten()
    if outputs is not None:
        flat = flat[outputs.to(flat.device)]
    return flat if factors is None else flat * factors.flatten()


def wanted_output(
    original: Settlement, pruned: Settlement, kept: Tensor | None, factors: Tensor | None = None
) -> Tensor:
    """Return the target of a layer's output, in the same layout; `kept` tells which outputs remain, None if all do.

    It is the output in the unpruned model, times the `factors` by which pruning multiplied the remaining outputs. If
    the output is added to other data `r` at the end of its tail, `t(y) + r`, the target also corrects the error of `r`,
    so that the sum equals that of the unpruned model: `y + t^-1(error)`. A tail only scales and moves entries, so its
    inverse is its transpose divided by the squared scales.
    """
    axis = original.call.channel_axis
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
