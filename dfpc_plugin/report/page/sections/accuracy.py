"""Accuracy from stage to stage, and at several costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dfpc_plugin.report.page.chart import Chart, Point, chart_of
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.sections.figures import in_runtime
from dfpc_plugin.report.page.wording import count, milliseconds, short, short_tick, shown, signed


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
            *(entry[key].number() for key in ("top1", "top5", "loss", "count")),
        )
        for entry in record["evaluations"].items()
    ]


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
        "top1": shown(evaluation.top1, _percentage),
        "change": change,
        "top5": shown(evaluation.top5, _percentage),
        "loss": shown(evaluation.loss, "{:.3f}".format),
        "count": shown(evaluation.count, count),
    }


def _percentage(value: float) -> str:
    return f"{value:.2f}%"


def _chart(data: str, rows: Sequence[Evaluation]) -> Chart | None:
    known = [(row.stage, row.top1) for row in rows if row.top1 is not None]
    points = [Point(index, top1, f"{top1:.1f}") for index, (_, top1) in enumerate(known)]
    title = f"Top-1 accuracy on {data}" if data else "Top-1 accuracy"
    return chart_of(title, points, x_label="", y_label="top-1, %", names=[stage for stage, _ in known])


_COSTS = (("macs", short), ("parameters", short), ("latency_ms", milliseconds))
"""Key of a cost on the curve, and how it is written."""


def tradeoff(record: Field) -> Mapping[str, Any] | None:
    """Return every point of the curve as a row, and those with accuracy as charts against MACs and latency."""
    runtime = in_runtime(record["prune"]) or ""
    rows, points = [], []
    for entry in record["curve"].items():
        label, top1 = entry["label"].text(), entry["top1"].number()
        costs = {key: entry[key].number() for key, _ in _COSTS}
        rows.append((label, *(shown(costs[key], form) for key, form in _COSTS), shown(top1, _percentage)))
        points += [
            (key, Point(cost, top1, label)) for key, cost in costs.items() if cost is not None and top1 is not None
        ]
    if not rows:
        return None
    charts = []
    for title, key, axis, form in (
        ("Accuracy against MACs", "macs", "MACs", short_tick),
        ("Accuracy against latency", "latency_ms", f"latency{runtime}, ms", None),
    ):
        ordered = sorted((point for cost, point in points if cost == key), key=lambda point: point.x)
        charts.append(chart_of(title, ordered, x_label=axis, y_label="top-1, %", x_format=form, margin=0.06))
    names = ("Model", "MACs", "Parameters", f"Latency{runtime}", "Top-1")
    used = [column for column in range(len(names)) if column == 0 or any(row[column] for row in rows)]
    return {
        "charts": [chart for chart in charts if chart is not None],
        "names": [names[column] for column in used],
        "rows": [[row[column] for column in used] for row in rows],
    }
