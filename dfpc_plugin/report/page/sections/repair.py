"""What repair did to every layer, and how fine-tuning went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings
from dfpc_plugin.report.page.chart import Chart, Logarithmic, Point, chart_of
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import grouped, percent, power_of_ten, short_tick, significant


def repair(record: Field) -> Mapping[str, Any] | None:
    """Return the layers that were changed or cannot be, with their errors on one logarithmic scale."""
    section = record["prune"]["repair"]
    if not section:
        return None
    layers = []
    for layer in section["layers"].items():
        errors = layer["before"].number(), layer["after"].number()
        note = layer["note"].text()
        if layer["changed"].value or note or errors != (None, None):
            layers.append((layer["name"].text(), *errors, note))
    scale = Logarithmic.over(value for _, before, after, _ in layers for value in (before, after) if value is not None)
    rows = []
    for name, before, after, note in layers:
        row = {"name": name, "note": note, "before": _written(before), "after": _written(after)}
        rows.append((name, row | {"at_before": _place(before, scale), "at_after": _place(after, scale)}))
    output = section["output_error"].numbers()
    return {
        "method": section["method"].text(),
        "output": [significant(100 * value) + "%" for value in output if value is not None] if len(output) == 2 else [],
        "measured_on": section["measured_on"].text(),
        "groups": grouped(rows),
        "measured": scale is not None,
        "ticks": [] if scale is None else [(100 * scale.at(10.0**e), power_of_ten(e)) for e in scale.exponents(5)],
        "columns": [
            name for name, at in (("Before", 1), ("After", 2)) if any(layer[at] is not None for layer in layers)
        ],
    }


def _written(error: float | None) -> str:
    if error is None:
        return ""
    return percent(error) if error >= 0.001 or error == 0 else f"{significant(100 * error, 2)}%"


def _place(error: float | None, scale: Logarithmic | None) -> float | None:
    """Where an error is, with a margin at both ends for the dot's own size; nothing at all lies at the lower end."""
    if error is None or scale is None:
        return None
    return round(3 + 94 * (scale.at(error) if error > 0 else 0.0), 2)


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
