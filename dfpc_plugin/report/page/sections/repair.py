"""What repair did to every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.grouping import grouped
from dfpc_plugin.report.page.scales import Logarithmic
from dfpc_plugin.report.page.wording import percent, power_of_ten, significant

__all__ = ["repair"]


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
