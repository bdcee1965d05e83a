"""Accuracy from stage to stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dfpc_plugin.report.page.chart import Chart, Point, chart_of
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.sections.evaluations import Evaluation, evaluations_of
from dfpc_plugin.report.page.wording import count, signed

__all__ = ["accuracy"]


def accuracy(record: Field) -> Mapping[str, Any] | None:
    """Return a table of all stages, and a chart for every data set that was looked at more than once."""
    known = evaluations_of(record)
    if not known:
        return None
    by_data: dict[str, list[Evaluation]] = {}
    for evaluation in known:
        by_data.setdefault(evaluation.data, []).append(evaluation)
    charts = [_chart(data, evaluations) for data, evaluations in by_data.items()]
    rows = [_row(evaluation, by_data[evaluation.data]) for evaluation in known]
    return {
        "rows": rows,
        "charts": [chart for chart in charts if chart is not None],
        "common": _common(known),
        "has": {key: any(row[key] for row in rows) for key in ("top5", "loss", "count")},
    }


def _common(known: Sequence[Evaluation]) -> str:
    """The data and how much of it, where that is the same at every stage and needs to be said but once."""
    if len({(evaluation.data, evaluation.count) for evaluation in known}) > 1:
        return ""
    first = known[0]
    images = "" if first.count is None else f"{count(first.count)} images"
    return ", ".join(part for part in (first.data, images) if part)


def _row(evaluation: Evaluation, same_data: Sequence[Evaluation]) -> dict[str, str]:
    first = same_data[0].top1
    change = ""
    if evaluation is not same_data[0] and first is not None and evaluation.top1 is not None:
        change = signed(evaluation.top1 - first)
    return {
        "stage": evaluation.stage or "not said",
        "data": evaluation.data,
        "top1": _percentage(evaluation.top1),
        "change": change,
        "top5": _percentage(evaluation.top5),
        "loss": "" if evaluation.loss is None else f"{evaluation.loss:.3f}",
        "count": "" if evaluation.count is None else count(evaluation.count),
    }


def _percentage(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}%"


def _chart(data: str, rows: Sequence[Evaluation]) -> Chart | None:
    known = [(row.stage, row.top1) for row in rows if row.top1 is not None]
    points = [Point(index, top1, f"{top1:.1f}") for index, (_, top1) in enumerate(known)]
    title = f"Top-1 accuracy on {data}" if data else "Top-1 accuracy"
    return chart_of(title, points, x_label="", y_label="top-1, %", names=[stage for stage, _ in known])
