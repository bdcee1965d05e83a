"""Repair as a part of pruning: of models that are scored, and of the result."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from dfpc_plugin.progress import Phases
from dfpc_plugin.pruning.prunable_model import PrunableModel, copy_of, pruned_copy
from dfpc_plugin.pruning.rank import Importance
from dfpc_plugin.repaired_importance import RepairedImportance, repaired_in
from dfpc_plugin.repairing import RepairResult, RepairSettings
from dfpc_plugin.repairing.inputs import Calibration
from dfpc_plugin.repairing.job import RepairJob, copy_state
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.moments import NoiseStatistics
from dfpc_plugin.repairing.repair import repair_job


class Repairer:
    """Repairs pruned versions of one model; `result` is the final repair, or None."""

    def __init__(self, settings: RepairSettings | None, prunable: PrunableModel, phases: Phases) -> None:
        """Keep a copy of the unpruned model if a repair is asked for."""
        self.result: RepairResult | None = None
        self._settings = None if settings is None or settings.method == "none" else settings
        self._prunable, self._phases = prunable, phases
        self._calibration: Calibration | None = None
        self._noise: NoiseStatistics | None = None
        if self._settings is not None:
            self._couplings = prunable.graph.coupling_map.copy()
            self._original = copy_of(prunable.model).eval()
            if self._settings.how.by_images:
                self._calibration = Calibration(self._settings, prunable.forward_fn, self._settings.checkpoint)

    def share_images(self, importance: Importance, *, by_default: bool) -> None:
        """Let ranking and repair use the same images, if both have the same settings.

        The user's own importance may already have its images; one chosen `by_default` takes those of the repair.
        """
        ranking = self._anticipating(importance)
        if ranking is not None and self._calibration is not None:
            if by_default:
                ranking.calibration = self._calibration  # this one has the checkpoint
            else:
                self._calibration = ranking.calibration

    def share_noise(self, importance: Importance) -> None:
        """Reuse the statistics of the unpruned model on noise if it was ranked with the same settings."""
        ranking = self._anticipating(importance)
        self._noise = None if ranking is None else ranking.noise_of(self._prunable.graph)

    def _anticipating(self, importance: Importance) -> RepairedImportance | None:
        """An importance that anticipates this repair, or None."""
        ranking, own = repaired_in(importance), self._settings
        if ranking is None or own is None or ranking.settings != own or ranking.settings.images is not own.images:
            return None
        return ranking

    def repaired(self, model: nn.Module, removed: Tensor) -> nn.Module:
        """Return a repaired copy of `model`, from which `removed` channels, `(channels,)` of bool, are removed."""
        if self._settings is None:
            return model
        return self._repaired(model, removed, dataclasses.replace(self._settings, checkpoint=None)).model

    def repair(self, model: nn.Module, removed: Tensor, *, final: bool = False) -> None:
        """Repair `model` itself, from which `removed` channels are removed, starting from the weights of the unpruned model.

        Only the `final` repair writes to the user's checkpoint and is kept as `result`.
        """
        if self._settings is not None:
            fresh = pruned_copy(self._original, self._couplings, removed.nonzero().squeeze(1))
            settings = self._settings if final else dataclasses.replace(self._settings, checkpoint=None)
            found = self._repaired(fresh, removed, settings)
            copy_state(found.model, model)
            self.result = dataclasses.replace(found, model=model) if final else None

    def _repaired(self, model: nn.Module, removed: Tensor, settings: RepairSettings) -> RepairResult:
        prunable, kept = self._prunable, Kept(self._couplings, removed)
        job = RepairJob(
            model, self._original, prunable.inputs, settings, kept, self._phases, prunable.forward_fn, self._calibration,
            self._noise,
        )  # fmt: skip
        result = repair_job(job)
        self._noise = job.noise
        return result
