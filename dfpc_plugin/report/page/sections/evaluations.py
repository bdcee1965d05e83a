"""Measured accuracies of a record, which several sections show."""

from __future__ import annotations

from dataclasses import dataclass

from dfpc_plugin.report.page.field import Field

__all__ = ["Evaluation", "evaluations_of"]


@dataclass(frozen=True)
class Evaluation:
    """Accuracy at one stage of the run; percentages are 0 to 100, and what was not measured is None."""

    stage: str
    data: str
    top1: float | None
    top5: float | None
    loss: float | None
    count: float | None


def evaluations_of(record: Field) -> list[Evaluation]:
    """Return them in their order."""
    return [
        Evaluation(
            entry["stage"].text(),
            entry["data"].text(),
            entry["top1"].number(),
            entry["top5"].number(),
            entry["loss"].number(),
            entry["count"].number(),
        )
        for entry in record["evaluations"].items()
    ]
