"""What came of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from dfpc_plugin.display import Shown
from dfpc_plugin.evaluation import Evaluation
from dfpc_plugin.finetuning.cuts import Cut
from dfpc_plugin.finetuning.settings import FinetuneSettings, ScheduleSettings
from dfpc_plugin.pruning import PruneResult
from dfpc_plugin.wrappers import HoldsModel


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


@dataclass(frozen=True)
class Iteration:
    """One cut, and the tuning after it, without the final one.

    Attributes:
        channels: Units that are left.
        macs: MACs that are left.
        parameters: Parameters that are left.
        loss: In the last steps of its tuning; None where there was none.
        top1: After its tuning; None where it was not evaluated.
    """

    channels: int
    macs: int
    parameters: int
    loss: float | None
    top1: float | None


@dataclass(frozen=True, repr=False)
class ScheduleResult(HoldsModel, Shown):
    """A pruned and tuned model, and how it came about. `print` it for tables.

    Attributes:
        model: The model, in evaluation mode, where the given one is.
        pruning: All cuts as if they had been one: what was asked for, reached and removed, in the numbers of the given model.
        settings: How it was cut and tuned.
        iterations: The cuts one by one.
        history: Rows as of `FinetuneResult`, with the number of cuts, MACs and parameters.
        steps: Steps of optimisers in all.
        evaluation: Of the model as it is; None without validation data.
        seconds: How long it took, without interruptions.
    """

    model: nn.Module
    pruning: PruneResult
    settings: ScheduleSettings
    iterations: tuple[Iteration, ...]
    history: tuple[dict[str, Any], ...]
    steps: int
    evaluation: Evaluation | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as dicts, lists, numbers and strings."""
        return {
            "pruning": self.pruning.to_json(),
            "settings": self.settings.to_json(),
            "history": [dict(row) for row in self.history],
            "result": {
                "iterations": [asdict(iteration) for iteration in self.iterations],
                **outcome_json(self.steps, self.evaluation, self.seconds),
            },
        }

    def __str__(self) -> str:
        """The tables of the pruning, and one line on the tuning."""
        return f"{self.pruning}\n{self._tuning}"

    def __repr__(self) -> str:
        """The figures of the pruning, and one line on the tuning."""
        return f"ScheduleResult: {self._tuning}\n{self.pruning!r}"

    @property
    def _tuning(self) -> str:
        reached = "" if self.evaluation is None else f": {self.evaluation}"
        return f"{len(self.iterations)} cuts, {self.steps} steps in {self.seconds:.0f} s{reached}"


def iterations_of(cuts: Sequence[Cut], history: Sequence[Mapping[str, Any]]) -> tuple[Iteration, ...]:
    """Put each cut together with the last row of the history before the next; the last one's tuning is not the final one."""
    result = []
    for number, cut in enumerate(cuts, 1):
        rows = [row for row in history if row.get("cuts") == number and not row.get("final")]
        evaluated = [row["top1"] for row in rows if row["top1"] is not None]
        loss, top1 = rows[-1]["loss"] if rows else None, evaluated[-1] if evaluated else None
        result.append(Iteration(cut.after.channels, cut.after.macs, cut.after.parameters, loss, top1))
    return tuple(result)
