"""Where a run is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dfpc_plugin.finetuning.cuts import Cut

__all__ = ["RunState"]


@dataclass
class RunState:
    """All that a run is, beside its model and its optimiser, and nothing that depends on how it got there.

    Attributes:
        courses: Courses of training that are done. A plain fine-tuning is one course.
        step: Steps that are done of the one that is going on.
        steps: Steps that are done in all.
        loss: Sum of the losses since the last row of the history.
        losses: How many.
        history: The rows so far.
        cuts: What was cut so far.
        seconds: Time that the run has taken, without interruptions.
        marks: What belongs into every row of the history from now on.
    """

    courses: int = 0
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    losses: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    seconds: float = 0.0
    marks: dict[str, Any] = field(default_factory=dict)
