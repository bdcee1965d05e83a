"""The record of a run: plain data that is saved with a model, and from which its report is made."""

from __future__ import annotations

import copy
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

import torch

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.evaluation import Evaluation
from dfpc_plugin.layers import LayerTable
from dfpc_plugin.plain_data import PlainDataError, checked, to_plain
from dfpc_plugin.require import installed_versions
from dfpc_plugin.selection import Target

_FORMAT = 1
TOTAL = "in all"
"""Key of the total time of a run, among the times of its stages."""


class RecordError(DFPCError):
    """A record was not written by this library."""


@dataclass(frozen=True)
class Point:
    """A model on the curve of accuracy (per cent) against cost; accuracy and latency (ms) are None if not measured."""

    label: str
    macs: int
    parameters: int
    top1: float | None = None
    latency_ms: float | None = None


@dataclass
class RunRecord:
    """Settings and results of a run, as far as it got; all of it can be converted to JSON.

    Attributes:
        model: Name, options, and the source of the weights.
        asked: The target as text.
        prune: `PruneResult.to_json()`, without the entries of the next two.
        saliency: Scores and removed units per coupling; None if saliency was recomputed after every round.
        protected: Couplings that were not pruned.
        preprocessing: How images become inputs.
        layers: Widths of the layers before and after, as in `LayerTable.to_json`.
        evaluations: Accuracy by stage.
        curve: Points of accuracy against cost.
        finetune: Settings, history and result of fine-tuning.
        exports: Exported files, and the errors of their outputs.
        recipe: The resolved recipe as YAML.
        changes: The part of the recipe that differs from the defaults, as YAML.
        sizes: Bytes of the weights "before" and "after".
        seconds: Time of each stage, and their total under `TOTAL`.
    """

    model: dict[str, Any] = field(default_factory=dict)
    asked: str | None = None
    prune: dict[str, Any] | None = None
    saliency: dict[str, Any] | None = None
    protected: list[dict[str, Any]] = field(default_factory=list)
    preprocessing: dict[str, Any] | None = None
    layers: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)
    finetune: dict[str, Any] | None = None
    exports: list[dict[str, Any]] = field(default_factory=list)
    recipe: str | None = None
    changes: str | None = None
    sizes: dict[str, int] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def add_pruning(self, content: dict[str, Any]) -> None:
        """Add a result of pruning, with its scores: what `PruneResult.to_json` returns."""
        content = copy.deepcopy(content)
        importance = content["importance"] = content.pop("criterion")
        self.layers = content.pop("layers")
        couplings = content["couplings"]
        self.protected = content.pop("protected")
        scored = [{"name": c["name"], "scores": c.pop("scores"), "gone": c.pop("gone")} for c in couplings]
        scored = [entry for entry in scored if entry["scores"]]
        self.saliency = {"importance": importance, "couplings": scored} if scored else None
        self.prune = content
        self.asked = str(Target(**content["target"]))
        self.seconds |= content["seconds"]

    def add_evaluation(self, stage: str, data: str, found: Evaluation) -> None:
        """Add an accuracy."""
        loss = found.loss if math.isfinite(found.loss) else None  # JSON has no infinity
        self.evaluations.append(
            {"stage": stage, "data": data, "top1": found.top1, "top5": found.top5, "loss": loss, "count": found.count}
        )

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add the time of a stage that came after all others."""
        whole = self.seconds.get(TOTAL, sum(self.seconds.values()))
        self.seconds = self.seconds | {stage: self.seconds.get(stage, 0.0) + seconds, TOTAL: whole + seconds}

    def add_point(self, point: Point) -> None:
        """Add a point of the curve."""
        self.curve.append(to_plain(point))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunRecord:
        """Read the result of `to_json`; entries may be missing. Raises RecordError for an entry of another type."""
        known = {entry.name: content[entry.name] for entry in fields(cls) if content.get(entry.name) is not None}
        try:
            return checked(cls, vars(cls()) | known, "")
        except PlainDataError as error:
            raise RecordError(f"The record was not written by this library: {error.sentence}") from None

    def layer_table(self) -> LayerTable | None:
        """Return the widths of the layers, if there are any; raise a RecordError if they cannot be read."""
        try:
            return LayerTable.from_json(self.layers) if self.layers else None
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"The record was not written by this library: its layers have no widths ({error})."
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return the record with time, versions and machine, for the report and the manifest."""
        return {
            "format": _FORMAT,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **to_plain(self),
            "versions": installed_versions(),
            "machine": machine(),
        }


def machine() -> dict[str, Any]:
    """Return the properties of the machine that timings depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": device,
        "threads": torch.get_num_threads(),
    }
