"""Exported files: their sizes, how near their outputs are, and how long they take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import file_size, milliseconds, percent, significant
from dfpc_plugin.runtimes import written

__all__ = ["exports"]

_VISIBLE = 1e-3
"""The smallest difference of outputs that is written as a percentage."""


def exports(record: Field) -> Mapping[str, Any] | None:
    """Return a row for every file, with what is known of it."""
    rows = [_row(entry) for entry in record["exports"].items()]
    return {"rows": rows} if rows else None


def _row(entry: Field) -> dict[str, Any]:
    size, same = (entry[key].number() for key in ("bytes", "same_predictions"))
    return {
        "path": entry["path"].text(),
        "kind": entry["kind"].text(),
        "how": _how(entry),
        "size": "" if size is None else file_size(size),
        "difference": _difference(entry["max_difference"].number()),
        "same": "" if same is None else percent(same),
        "latency": [
            f"{milliseconds(value)} in {written(name)}"
            for name, value in ((name, field.number()) for name, field in entry["latency_ms"].entries())
            if value is not None
        ],
        "notes": entry["notes"].texts(),
    }


def _difference(value: float | None) -> str:
    """The largest difference of an output, as a share of the largest output."""
    if value is None:
        return "not compared"
    return percent(value) if value > _VISIBLE else significant(value, 2)


def _how(entry: Field) -> str:
    """How a quantized file was made; nothing for others."""
    method, images, compared = entry["method"].text(), entry["images"].number(), entry["compared"].number()
    if not method:
        return ""
    origin = entry["images_from"].text() or "images"
    ranges = f"ranges measured on {images:.0f} of {origin}" if images else "ranges measured at every call"
    return f"{method}: {ranges}" + (f"; compared on {compared:.0f} others" if compared else "")
