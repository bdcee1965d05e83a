"""Costs before and after, and exported files: their sizes, how near their outputs are, and how long they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dfpc_plugin.display import shapes_text
from dfpc_plugin.latency import speedup_note
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import count, file_size, milliseconds, percent, shown, significant
from dfpc_plugin.runtimes import written

_ROWS: tuple[tuple[str, str, Callable[[float], str], bool], ...] = (
    ("channels", "Channels that could be pruned", count, True),
    ("macs", "MACs", count, True),
    ("parameters", "Parameters", count, True),
    ("bytes", "Size of the weights", file_size, True),
    ("latency_ms", "Latency, median", milliseconds, True),
    ("latency_iqr_ms", "Latency, interquartile range", lambda value: milliseconds(value, 2), False),
    ("score", "Score", lambda value: significant(value, 4), False),
)
"""Key, name, how it is written, and whether the share that remains says something."""


def figures(record: Field) -> Mapping[str, Any] | None:
    """Return one row per figure that is known before and after, and what was not measured."""
    prune, sizes = record["prune"], record["sizes"]
    before, after = prune["before"], prune["after"]
    rows, runtime = [], in_runtime(prune)
    for key, name, form, has_share in _ROWS:
        was, now = (sizes["before"], sizes["after"]) if key == "bytes" else (before[key], after[key])
        old, new = was.number(), now.number()
        if old is not None and new is not None:
            if key.startswith("latency"):
                if runtime is None:
                    continue
                name = name.replace(",", f"{runtime},")
            rows.append((name, form(old), form(new), percent(new / old) if has_share and old else ""))
    threads = after["threads"].number()
    shapes = [[int(length.number() or 0) for length in shape.items()] for shape in after["shapes"].items()]
    if not rows:
        return None
    return {
        "rows": rows,
        "threads": None if threads is None or runtime is None else int(threads),
        "runtime": runtime,
        "shapes": shapes_text(shapes),
        "speedup": speedup_note(before["latency_ms"].number(), after["latency_ms"].number(), prune["speedup"].number()),
        "missing": _missing(record),
    }


def in_runtime(prune: Field) -> str | None:
    """Words that say which runtime latency was measured in, for the end of a sentence; empty where it was not noted.

    None if the latencies before and after are of different runtimes, and so cannot be compared.
    """
    before, after = (prune[side]["runtime"].text() for side in ("before", "after"))
    if before != after:
        return None
    return f" in {written(after)}" if after else ""


def _missing(record: Field) -> list[str]:
    """What was not measured or done, each with how to have it."""
    prune = record["prune"]
    found = []
    if not prune["after"]["latency_ms"]:
        found.append("Latency was not measured: ask for it in the target, or give settings for it.")
    if not record["evaluations"].items() and not prune["after"]["score"]:
        found.append("Accuracy was not measured: that takes labelled images.")
    if prune["couplings"] and not prune["repair"] and not record["finetune"]:
        found.append("The model was neither repaired nor fine-tuned.")
    return found


_VISIBLE = 1e-3
"""The smallest difference of outputs that is written as a percentage."""


def exports(record: Field) -> Mapping[str, Any] | None:
    """Return a row for every file, with what is known of it."""
    rows = [_export_row(entry) for entry in record["exports"].items()]
    return {"rows": rows} if rows else None


def _export_row(entry: Field) -> dict[str, Any]:
    size, same = (entry[key].number() for key in ("bytes", "same_predictions"))
    return {
        "path": entry["path"].text(),
        "kind": entry["kind"].text(),
        "how": _how(entry),
        "size": shown(size, file_size),
        "difference": _difference(entry["max_difference"].number()),
        "same": shown(same, percent),
        "latency": [
            f"{milliseconds(value)} in {written(name)}"
            for name, value in ((name, field.number()) for name, field in entry["latency_ms"].entries())
            if value is not None
        ],
        "conditions": entry["latency_conditions"].text(),
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
