"""Accuracy at several costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dfpc_plugin.report.page.chart import Chart, Point, chart_of
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.sections.figures import in_runtime
from dfpc_plugin.report.page.wording import milliseconds, short, short_tick

__all__ = ["tradeoff"]


def tradeoff(record: Field) -> Mapping[str, Any] | None:
    """Return every point of the curve as a row, and those with accuracy as charts against MACs and latency."""
    entries, runtime = record["curve"].items(), in_runtime(record["prune"]) or ""
    rows, by_macs, by_latency = [], [], []
    for entry in entries:
        label, top1 = entry["label"].text(), entry["top1"].number()
        macs, parameters, latency = (entry[key].number() for key in ("macs", "parameters", "latency_ms"))
        rows.append(
            (
                label,
                "" if macs is None else short(macs),
                "" if parameters is None else short(parameters),
                "" if latency is None else milliseconds(latency),
                "" if top1 is None else f"{top1:.2f}%",
            )
        )
        if top1 is not None and macs is not None:
            by_macs.append(Point(macs, top1, label))
        if top1 is not None and latency is not None:
            by_latency.append(Point(latency, top1, label))
    if not rows:
        return None
    charts = [
        _chart("Accuracy against MACs", by_macs, "MACs", short_tick),
        _chart("Accuracy against latency", by_latency, f"latency{runtime}, ms"),
    ]
    names = ("Model", "MACs", "Parameters", f"Latency{runtime}", "Top-1")
    used = [column for column in range(len(names)) if column == 0 or any(row[column] for row in rows)]
    return {
        "charts": [chart for chart in charts if chart is not None],
        "names": [names[column] for column in used],
        "rows": [[row[column] for column in used] for row in rows],
    }


def _chart(title: str, points: list[Point], cost: str, form: Callable[[float], str] | None = None) -> Chart | None:
    """From the cheapest model to the dearest."""
    ordered = sorted(points, key=lambda point: point.x)
    return chart_of(title, ordered, x_label=cost, y_label="top-1, %", x_format=form, margin=0.06)
