"""The rungs of the ladder: what is done to a pruned model in evaluation mode, in place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.batchnorm import norms_of, reestimated
from dfpc_plugin.repairing.calibration import Calibration
from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.job import RepairJob
from dfpc_plugin.repairing.least_squares import fit_layers
from dfpc_plugin.repairing.mean import fold_means
from dfpc_plugin.repairing.merge import merge_channels
from dfpc_plugin.repairing.noise import on_noise
from dfpc_plugin.repairing.norm_moments import moments_of, update_norms
from dfpc_plugin.repairing.report import LayerRepair
from dfpc_plugin.repairing.store import Store, fingerprint

__all__ = ["METHODS"]

_Done = TypeVar("_Done")

_SHIFT = 0.5
"""`mean` has two estimates of a constant, what is expected of removed channels and what noise tells; both count."""


def _none(job: RepairJob) -> list[LayerRepair]:
    """Leave the model as it was cut."""
    return []


def _mean(job: RepairJob) -> list[LayerRepair]:
    """Constants, and norms that expect what is left."""
    with job.phases("means"):
        layers = fold_means(job.model, job.original, job.example_inputs, job.kept, job.forward_fn)
        if any(buffer.is_floating_point() for buffer in job.model.buffers()):
            _on_noise(job, functools.partial(_expect_what_is_left, job))
        return layers


def _expect_what_is_left(job: RepairJob, noise: ExampleInputs | None) -> None:
    """Set the statistics of norms to those of noise in the repaired model; do nothing without noise."""
    if noise is not None:
        before, after = (moments_of(model, noise, job.forward_fn) for model in (job.original, job.model))
        update_norms(job.model, job.original, before, after, job.kept, shift=_SHIFT)


def _merge(job: RepairJob) -> list[LayerRepair]:
    """Stand-ins, from noise, and norms that expect what is left."""
    with job.phases("merging"):
        return _on_noise(job, functools.partial(_merged, job))


def _merged(job: RepairJob, noise: ExampleInputs | None) -> list[LayerRepair]:
    """Channels that stand in for others as they do on noise."""
    settings = job.settings
    return merge_channels(
        job.model, job.original, job.example_inputs, noise, job.kept, job.forward_fn, rows=settings.rows, seed=settings.seed
    )


def _least_squares(job: RepairJob) -> list[LayerRepair]:
    """Least squares of every layer, and batch norms if that makes the output better."""
    settings = job.settings
    calibration = job.calibration or Calibration(settings, job.forward_fn, settings.checkpoint)
    with job.phases("images") as tell:
        batches = calibration.batches(job.original, job.example_inputs, tell)
    job.notes += [calibration.note] if calibration.note else []
    with job.phases("evaluating"):
        before = job.error(batches.unseen)
    with job.phases("layers") as tell:
        layers = fit_layers(
            job.model, job.original, batches, job.kept, forward_fn=job.forward_fn, ridge=settings.used_ridge,
            rows=settings.rows, seed=settings.seed, memory_gib=settings.memory_gib, store=_store(job, batches), progress=tell,
        )
    with job.phases("evaluating"):
        after = job.error(batches.unseen)
    if settings.batchnorm and calibration.matches and after is not None and norms_of(job.model):
        after = _try_norms(job, batches, after)
    job.output_error = None if before is None or after is None else (before, after)
    return layers


def _try_norms(job: RepairJob, batches: Batches, after: float) -> float:
    """Re-estimate batch norms, and put them back unless that makes the output better; with the error that is left."""
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
    """Where solved layers are kept."""
    own = job.settings
    if own.checkpoint is None:
        return Store(None, "")
    said = {name: getattr(own, name) for name in ("method", "used_ridge", "rows", "memory_gib", "seed")}
    kept = job.kept.removed.nonzero().flatten().tolist()
    mark = fingerprint([job.model, job.original], {**said, "removed": kept}, batches.parts)
    return Store(Path(own.checkpoint), mark)


def _on_noise(job: RepairJob, act: Callable[[ExampleInputs | None], _Done]) -> _Done:
    """Call `act` with noise, and note where that was little."""
    found, note = on_noise(job.example_inputs, job.settings.seed, act)
    job.notes += [note] if note else []
    return found


METHODS: dict[str, Callable[[RepairJob], list[LayerRepair]]] = {
    "none": _none, "mean": _mean, "merge": _merge, "synthetic": _least_squares, "calibrate": _least_squares
}
"""What each method does to a job's model, and says of its layers."""
