"""The repair methods: each changes a pruned model in evaluation mode, in place."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import entered
from dfpc_plugin.repairing.batch_norms import Norms, moments_of, norms_of, reestimated, update_norms
from dfpc_plugin.repairing.channel_norms import ChannelNorms
from dfpc_plugin.repairing.data_free import fold_means, merge_channels
from dfpc_plugin.repairing.inputs import Batches, Calibration
from dfpc_plugin.repairing.job import Best, RepairJob, copy_state
from dfpc_plugin.repairing.least_squares import fit_layers
from dfpc_plugin.repairing.moments import NoiseStatistics, noise_statistics
from dfpc_plugin.repairing.noise import on_noise
from dfpc_plugin.repairing.report import LayerRepair
from dfpc_plugin.repairing.settings import METHODS, RepairMethod
from dfpc_plugin.repairing.store import Store, fingerprint

__all__ = ["METHODS"]

_SHIFT = 0.5
"""`mean` averages two estimates of a constant: from the means of removed channels, and from noise."""
_ONE_IN = 8
"""An eighth of the images of noise is enough to compare outputs."""


def _unless_worse(phase: str, repair: Callable[[RepairJob], list[LayerRepair]], job: RepairJob) -> list[LayerRepair]:
    """Repair, and undo it if it makes the outputs on noise worse."""

    def as_it_is(noise: ExampleInputs | None) -> Best:
        if noise is None:
            return Best(job, Batches([job.example_inputs]), "the example inputs")
        return Best(job, Batches([noise]), "noise", noise=True)

    with job.phases(phase):
        best, _ = on_noise(job.example_inputs, job.settings.seed + 1, as_it_is, _ONE_IN)
        layers = _kept_or_taken_back(job, best, repair(job))
    job.output_error = best.errors
    return layers


def _kept_or_taken_back(job: RepairJob, best: Best, layers: list[LayerRepair]) -> list[LayerRepair]:
    """Keep a repair unless it makes the outputs worse; return the reports of its layers."""
    if best.keep(f"Repair by {job.settings.method}"):
        return layers
    return [dataclasses.replace(layer, changed=False, note="taken back") for layer in layers]


def _folded(job: RepairJob) -> list[LayerRepair]:
    """Add the means of removed channels, and update norms by noise."""
    layers = fold_means(job)

    def of_original(noise: ExampleInputs | None) -> tuple[ExampleInputs | None, Norms]:
        return noise, {} if noise is None else _correct(ChannelNorms(job.original, job.kept), job, noise)

    (noise, before), note = on_noise(job.example_inputs, job.settings.seed, of_original)
    job.notes += [note] if note else []
    _update_batch_norms(job, noise, before, _SHIFT)
    return layers


def _merged(job: RepairJob) -> list[LayerRepair]:
    """Merge channels by regression on noise, and update norms."""
    known = _statistics(job)
    layers = _merge(job, known)
    _update_batch_norms(job, known.noise, known.norms, 0.0)
    return layers


def _statistics(job: RepairJob) -> NoiseStatistics:
    """Statistics of the unpruned model on noise, measured unless the ranking or another repair has measured them."""
    if job.noise is None:
        job.noise = noise_statistics(job.original, job.example_inputs, job.forward_fn, job.settings)
    job.notes += [job.noise.note] if job.noise.note else []
    return job.noise


def _merge(job: RepairJob, known: NoiseStatistics) -> list[LayerRepair]:
    """Merge channels, and correct norms over channels, but leave batch norms."""
    layers, norms = merge_channels(job, known.moments), ChannelNorms(job.original, job.kept)
    if norms.needed:
        _correct(norms, job, job.example_inputs if known.noise is None else known.noise)
    return layers


def _correct(norms: ChannelNorms, job: RepairJob, inputs: ExampleInputs) -> Norms:
    """Correct norms over channels by a forward of the unpruned model; return the moments of its batch norms."""
    with entered(norms):
        before = moments_of(job.original, inputs, job.forward_fn)
    norms.update(job.model)
    return before


def _update_batch_norms(job: RepairJob, noise: ExampleInputs | None, before: Norms, shift: float) -> None:
    """Update the statistics of batch norms, if there are batch norms and noise."""
    if before and noise is not None:
        after = moments_of(job.model, noise, job.forward_fn)
        update_norms(job.model, job.original, before, after, job.kept, shift=shift)


def _least_squares(job: RepairJob) -> list[LayerRepair]:
    """Merge, fit every layer by least squares, and re-estimate batch norms if that improves the output.

    Merging comes first, so that whatever the images do not determine stays as merged.
    """
    settings = job.settings
    calibration = job.calibration or Calibration(settings, job.forward_fn, settings.checkpoint)
    with job.phases("images") as tell:
        batches = calibration.batches(job.original, job.example_inputs, tell)
    job.notes += [calibration.note] if calibration.note else []
    with job.phases("evaluating"):
        best = Best(
            job,
            batches.unseen,
            "images made from the model" if job.settings.how.images == "made" else "held-out images",
        )
    with job.phases("merging"):
        _begin_merged(job, best)
    with job.phases("layers") as tell:
        layers = fit_layers(job, batches, _store(job, batches), tell)
    with job.phases("evaluating"):
        layers = _kept_or_taken_back(job, best, layers)
    if settings.batchnorm and calibration.matches and best.error is not None and norms_of(job.model):
        best.error = _try_norms(job, batches, best.error)
    job.output_error = best.errors
    return layers


def _begin_merged(job: RepairJob, best: Best) -> None:
    """Merge channels, unless the model cannot be called with noise, or its outputs get worse.

    Least squares begins with the batch norms of the original, as each layer is fitted to its outputs there; the merged
    model is compared with updated ones.
    """
    cut = copy.deepcopy(job.model)
    try:
        known = _statistics(job)
        _merge(job, known)
        begun = copy.deepcopy(job.model)
        _update_batch_norms(job, known.noise, known.norms, 0.0)
    except DFPCError as error:
        copy_state(cut, job.model)
        job.notes.append(f"Least squares began without merging, as the model does not take noise: {error}")
        return
    if best.keep("merge"):
        copy_state(begun, job.model)


def _try_norms(job: RepairJob, batches: Batches, after: float) -> float:
    """Re-estimate batch norms, undo it unless it improves the output, and return the remaining error."""
    own = [batch for batch, count in zip(batches.fitted.parts, batches.fitted.counts, strict=True) if count > 1]
    if not own:
        return after
    with job.phases("batch norms"), reestimated(job.model, own, job.forward_fn) as keep:
        again = job.error(batches.unseen)
        keep[0] = again is not None and again < after
    said = "unknown" if again is None else f"{again:.2%}"
    job.notes.append(
        f"Re-estimating batch norms takes the output's error from {after:.2%} to {said}: {'kept' if keep[0] else 'put back'}."
    )
    return again if keep[0] and again is not None else after


def _store(job: RepairJob, batches: Batches) -> Store:
    """Where solved layers are saved."""
    own = job.settings
    if own.checkpoint is None:
        return Store(None, "")
    said = {name: getattr(own, name) for name in ("method", "used_ridge", "rows", "seed")}
    kept = job.kept.removed.nonzero().flatten().tolist()
    mark = fingerprint([job.model, job.original], {**said, "removed": kept}, batches.parts)
    return Store(Path(own.checkpoint), mark)


for _method in (
    RepairMethod("none", lambda job: [], "leaves the model as it was cut"),
    RepairMethod("mean", functools.partial(_unless_worse, "means", _folded), "biases take over the average of removed channels, and batch norms are updated: seconds, no data"),
    RepairMethod(
        "merge", functools.partial(_unless_worse, "merging", _merged), "remaining channels take over removed ones, by regression on noise: seconds, no data", anticipated=True
    ),
    RepairMethod(
        "synthetic", _least_squares, "least squares of every layer on images made from the model: minutes, no data",
        images="made", ridge=0.03, anticipated=True,
    ),
    RepairMethod(
        "calibrate", _least_squares, "the same on unlabelled images", images="given", ridge=0.01, anticipated=True,
    ),
):  # fmt: skip
    METHODS.register(_method)
