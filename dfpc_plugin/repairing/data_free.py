"""Repair by weights and noise alone: removed channels are merged into remaining ones, or replaced by their means.

`merge_channels` replaces, in every layer, the input from a removed channel by its regression on the remaining channels,
`x_r ~ a x_k + c`, position by position. This can be folded into the layer's weights, `W_k + W_r a`, and a constant. The
covariances depend on the preceding weights. They are measured on noise that runs through the unpruned model, with batch
norms as in `ImposedStatistics`. `fold_means` only adds the mean contribution of removed channels as a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dfpc_plugin.interrupts import undone
from dfpc_plugin.repairing.calls import LayerCall
from dfpc_plugin.repairing.job import RepairJob
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.lockstep import Pair, Step, survey
from dfpc_plugin.repairing.moments import LayerMoments
from dfpc_plugin.repairing.report import NO_PLACE, SHARED, LayerRepair
from dfpc_plugin.repairing.targets import kept_matrix, kept_shift, row_factors, shift_outputs
from dfpc_plugin.trace import trace_model

_MOST, _LEAST = 4096, 16
_FLOOR = 1e-7
_CAUTION = 0.3
_FEW, _MISTRUST = 0.1, 10.0
"""The ridge grows once the regression uses more than a tenth of its samples' degrees of freedom."""
_POWER = 1.5
"""Exponent of the remaining share of a variance: one fits uncorrelated inputs, two fully correlated ones."""
_LEAST_SHARE = 0.1
"""Smallest remaining share, so that channels that hardly vary are not amplified."""


def merge_channels(job: RepairJob, moments: Mapping[str, Sequence[LayerMoments]]) -> list[LayerRepair]:
    """Fold removed channels into kept ones in every layer that reads them, in place; return a report on each layer.

    `moments` are those of the inputs of the unpruned model's layers, from which covariances are taken.
    """
    found = []
    for pair, step, inputs in _consumers(job):
        call = pair.original.call
        own = next((own for own in moments.get(call.name, ()) if own.start == call.rows_of.start), None)
        if step.shared or own is None or own.samples < _LEAST:
            note = SHARED if step.shared else "is given too few examples to compare channels by"
            found.append(LayerRepair(step.name, False, note=note))
        else:
            found.append(_fold(pair, job.kept, inputs, own, takes_constant=step.takes_constant))
    return found


def _consumers(job: RepairJob) -> Iterator[tuple[Pair, Step, Tensor]]:
    """Run both models in turns; yield them at each layer that lost inputs, and which of its inputs remain."""
    pair = Pair(job.original, job.model, job.example_inputs, job.forward_fn)
    with undone(pair.close):
        for step in survey(job.original, job.example_inputs, job.forward_fn):
            pair.advance()
            inputs = job.kept.inputs(pair.original.call)
            if inputs is not None and step.last:
                yield pair, step, inputs


def _regression(covariance: Tensor, keep: Tensor, samples: int) -> Tensor | None:
    """Regress the removed channels on the kept ones, `(removed, kept)`; None if nothing can be regressed.

    The ridge grows with the share of a channel's variance that the regression is expected to miss on other positions.
    It is almost zero for a duplicate of another channel, which replaces it exactly, and large if the regression
    explains little or has few positions.
    """
    if covariance.dim() < 2 or not keep.any() or keep.all() or int(keep.sum()) > _MOST:
        return None
    values, vectors = torch.linalg.eigh(covariance[keep][:, keep])
    values = values.clamp_min(0)
    across = vectors.mT @ covariance[keep][:, ~keep]
    level, total = values.mean(), covariance.diagonal()[~keep]
    if not bool(level > 0):
        return across.new_zeros(across.shape).mT
    floor = _FLOOR * level
    sure = across / (values + floor)[:, None]
    missed = (total - 2 * (across * sure).sum(0) + (sure.square() * values[:, None]).sum(0)) / total.clamp_min(1e-300)
    used = float((values / (values + floor)).sum()) / samples  # share of the positions' degrees of freedom
    missed = missed.clamp(0, 1) / max(1 - used, _FLOOR) ** 2 if used < 1 else torch.ones_like(missed)
    ridge = floor + _CAUTION * level * missed.clamp_max(1) + (level * _MISTRUST * max(0.0, used - _FEW))
    return (vectors @ (across / (values[:, None] + ridge))).mT


def _fold(pair: Pair, kept: Kept, inputs: Tensor, moments: LayerMoments, *, takes_constant: bool) -> LayerRepair:
    call, pruned = pair.original.call, pair.pruned
    masks = inputs.to(moments.covariance.device).view(call.groups, -1)
    regressions = [_regression(*own, moments.samples) for own in zip(moments.covariance, masks, strict=True)]
    if kept_matrix(call, pruned.call, kept) is None or any(weights is None for weights in regressions):
        return LayerRepair(call.name, False, note="its groups of inputs went as a whole, or are too wide to compare")
    change, rest = [], torch.zeros_like(moments.mean)
    matrices = call.matrix.unflatten(2, (-1, call.taps()))
    for number, (matrix, weights, keep) in enumerate(zip(matrices, regressions, masks, strict=True)):
        assert weights is not None
        level = moments.mean[number]
        change.append(torch.einsum("ort,rk->okt", matrix[:, ~keep], weights).flatten(1))
        rest[number, ~keep] = level[~keep] - weights @ level[keep]
    factors, outputs = row_factors(call, pruned.call, kept), kept.outputs(call)
    if takes_constant:
        shift = torch.einsum("goi,gi->go", call.matrix, call.constant_rows(rest.flatten()))
        shift_outputs(pruned, kept_shift(shift, outputs, factors))
    if outputs is not None:
        rows = outputs.view(call.groups, -1).to(rest.device)
        change = [own[keep] for own, keep in zip(change, rows, strict=True)]
    added = torch.stack(change)
    pruned.call.write(pruned.call.matrix + (added if factors is None else added * factors[:, :, None]))
    return LayerRepair(call.name, True)


def fold_means(job: RepairJob) -> list[LayerRepair]:
    """Compensate for the means and variances of removed channels, in place; return a report on each layer.

    Their mean contribution is added to the layer's constant, and the variance stored by a batch norm behind it is
    reduced by the share that is lost. Otherwise signals would fade from layer to layer, until the outputs are constant.
    (This share is estimated from the layer alone; it stays if `batch_norms` has no noise to measure it.)

    The means follow from the batch norms, or layer norms, and the activations in between (see `analyses.moments`): no
    data is run, only the shape of the example inputs counts. Exact for constant channels, except at the borders of
    padded images.
    """
    run = trace_model(job.original, job.example_inputs, job.forward_fn, flow="variances").bounds
    assert run is not None
    found = []
    for pair, step, inputs in _consumers(job):
        call, pruned = pair.original.call, pair.pruned
        mean = _per_channel(run.arriving.get(call.name), call)
        if not step.takes_constant or mean is None:
            note = "what its inputs are on average is not known" if step.takes_constant else NO_PLACE
            found.append(LayerRepair(call.name, False, note=note))
            continue
        lost = torch.where(inputs.to(mean.device), torch.zeros_like(mean), mean)
        shift = torch.einsum("goi,gi->go", call.matrix, call.constant_rows(lost).to(call.matrix))
        outputs = job.kept.outputs(call)
        shift_outputs(pruned, kept_shift(shift, outputs, row_factors(call, pruned.call, job.kept)))
        variance = _per_channel(run.varying.get(call.name), call)
        if step.norm_is_own and pruned.norm_variance is not None and variance is not None:
            share = kept_shift(_varying_share(call, inputs, variance), outputs, None)
            pruned.norm_variance.mul_(share.to(pruned.norm_variance))
        found.append(LayerRepair(call.name, True))
    return found


def _varying_share(call: LayerCall, inputs: Tensor, variance: Tensor) -> Tensor:
    """The factor by which the variance of every output falls without the removed inputs, `(groups, outputs)`."""
    squares = call.matrix.square()
    left = torch.where(inputs.to(variance.device), variance, torch.zeros_like(variance))
    some, every = (torch.einsum("goi,gi->go", squares, call.constant_rows(own).to(squares)) for own in (left, variance))
    share = torch.where(every > 0, some / every.clamp_min(1e-300), torch.ones_like(every))
    return share.pow(_POWER).clamp_min(_LEAST_SHARE)


def _per_channel(mean: Tensor | None, call: LayerCall) -> Tensor | None:
    """One mean or variance per input channel, `(channels,)`."""
    if mean is None:
        return None
    axis = call.channel_axis
    channels = call.input.shape[axis]
    if mean.dim() < -axis or mean.shape[axis] not in (1, channels):
        return None
    flat = mean.movedim(axis, -1)
    return flat.expand(*flat.shape[:-1], channels).reshape(-1, channels).double().mean(0)
