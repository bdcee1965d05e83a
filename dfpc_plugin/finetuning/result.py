"""What came of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from dfpc_plugin.display import Shown
from dfpc_plugin.evaluation import Evaluation
from dfpc_plugin.finetuning.settings import FinetuneSettings
from dfpc_plugin.wrappers import HoldsModel

__all__ = ["FinetuneResult", "outcome_json"]


def outcome_json(steps: int, evaluation: Evaluation | None, seconds: float) -> dict[str, Any]:
    """Return what training has come to as dicts, lists, numbers and strings."""
    return {"steps": steps, "evaluation": None if evaluation is None else evaluation.to_json(), "seconds": seconds}


@dataclass(frozen=True, repr=False)
class FinetuneResult(HoldsModel, Shown):
    """A fine-tuned model, and how it came about.

    Attributes:
        model: The model, in evaluation mode, where the given one is.
        settings: How it was tuned.
        history: Rows of step, epoch, loss (mean since the row before), lr, top1 (None where it was not evaluated) and seconds.
        steps: Steps of the optimiser.
        evaluation: Of the model as it is; None without validation data.
        seconds: How long it took, without interruptions.
    """

    model: nn.Module
    settings: FinetuneSettings
    history: tuple[dict[str, Any], ...]
    steps: int
    evaluation: Evaluation | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as dicts, lists, numbers and strings."""
        return {
            "settings": self.settings.to_json(),
            "history": [dict(row) for row in self.history],
            "result": outcome_json(self.steps, self.evaluation, self.seconds),
        }

    def __str__(self) -> str:
        """One line."""
        return f"{self.steps} steps in {self.seconds:.0f} s: {self._reached}"

    def __repr__(self) -> str:
        """The same with the model's class."""
        return f"FinetuneResult of {type(self.model).__name__}. {self}"

    @property
    def _reached(self) -> str:
        """How good the model is."""
        if self.evaluation is not None:
            return str(self.evaluation)
        return f"loss {self.history[-1]['loss']:.4f} in training" if self.history else "no step was logged"
