"""Training with labelled data after pruning, or in turns with it; on accelerate and timm."""

from __future__ import annotations

from dfpc_plugin.finetuning.finetune import finetune
from dfpc_plugin.finetuning.prune_and_tune import prune_and_tune
from dfpc_plugin.finetuning.result import FinetuneResult, Iteration, ScheduleResult
from dfpc_plugin.finetuning.settings import CheckpointError, FinetuneError, FinetuneSettings, ScheduleSettings

__all__ = [
    "CheckpointError",
    "FinetuneError",
    "FinetuneResult",
    "FinetuneSettings",
    "Iteration",
    "ScheduleResult",
    "ScheduleSettings",
    "finetune",
    "prune_and_tune",
]
