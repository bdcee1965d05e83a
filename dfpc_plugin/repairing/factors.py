"""The remaining part of a weight, and the factors by which pruning scaled its rows."""

from __future__ import annotations

import torch
from torch import Tensor

from dfpc_plugin.repairing.calls import LayerCall
from dfpc_plugin.repairing.kept import Kept

_ALIKE = 1 - 1e-6


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
    parts = [
        own.index_select(axis - 1, keep.nonzero().squeeze(1).to(own.device))
        for own, keep in zip(matrix, mask, strict=True)
    ]
    return torch.stack(parts)
