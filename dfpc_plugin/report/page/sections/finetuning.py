"""How fine-tuning went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings
from dfpc_plugin.report.page.chart import Chart, Point, chart_of
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import short_tick

__all__ = ["finetuning"]

_CHARTS: tuple[tuple[str, str, str, Callable[[float], str] | None], ...] = (
    ("loss", "Training loss", "loss", None),
    ("top1", "Accuracy", "top-1, %", None),
    ("macs", "Cost", "MACs", short_tick),
)
"""Key of the history, title, name of the axis, and how its ticks are written."""


def finetuning(record: Field) -> Mapping[str, Any] | None:
    """Return charts of what changes from step to step, the settings and the result."""
    section = record["finetune"]
    if not section:
        return None
    history = section["history"].items()
    charts = [_chart(history, *what) for what in _CHARTS]
    content = {
        "charts": [chart for chart in charts if chart is not None],
        "settings": _changed(section["settings"]),
        "usual": bool(section["settings"]),
        "result": [(name, value.anything()) for name, value in _flat(section["result"]) if value],
    }
    return content if any(content.values()) else None


def _flat(field: Field, prefix: str = "") -> list[tuple[str, Field]]:
    """Entries of an object and of the objects in it; lists of objects, which charts show, are left out."""
    found: list[tuple[str, Field]] = []
    for name, value in field.entries():
        if isinstance(value.value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif not (isinstance(value.value, list) and any(isinstance(entry, Mapping) for entry in value.value)):
            found.append((f"{prefix}{name}", value))
    return found


def _changed(settings: Field) -> list[tuple[str, str]]:
    """Settings that are not the defaults of their kind."""
    usual = ScheduleSettings() if settings["step_sizes"] else FinetuneSettings()
    defaults = {name: value.value for name, value in _flat(Field(usual.to_json()))}
    return [
        (name, value.anything())
        for name, value in _flat(settings)
        if name not in defaults or value.value != defaults[name]
    ]


def _chart(
    history: list[Field], key: str, title: str, y_label: str, form: Callable[[float], str] | None
) -> Chart | None:
    """Against steps, or epochs where there are no steps; a constant needs no chart."""
    for x_key in ("step", "epoch"):
        pairs = [(entry[x_key].number(), entry[key].number()) for entry in history]
        points = [Point(x, y) for x, y in pairs if x is not None and y is not None]
        if points:
            break
    if len({point.y for point in points}) < 2 and key == "macs":
        return None
    if 2 <= len(points) <= 40 and key == "top1":
        points[-1] = Point(points[-1].x, points[-1].y, f"{points[-1].y:.1f}")
    return chart_of(title, points, x_label=x_key, y_label=y_label, y_format=form, whole=x_key == "step")
