"""Costs before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import count, milliseconds, percent, significant
from dfpc_plugin.runtimes import RUNTIMES

__all__ = ["figures", "in_runtime"]

_ROWS: tuple[tuple[str, str, Callable[[float], str], bool], ...] = (
    ("channels", "Prunable units", count, True),
    ("macs", "MACs", count, True),
    ("parameters", "Parameters", count, True),
    ("latency_ms", "Latency, median", milliseconds, True),
    ("latency_iqr_ms", "Latency, interquartile range", lambda value: milliseconds(value, 2), False),
    ("score", "Score", lambda value: significant(value, 4), False),
)
"""Key, name, how it is written, and whether the share that is left says something."""


def figures(record: Field) -> Mapping[str, Any] | None:
    """Return one row per figure that is known before and after."""
    before, after = record["prune"]["before"], record["prune"]["after"]
    rows = []
    for key, name, form, has_share in _ROWS:
        was, now = before[key].number(), after[key].number()
        if was is not None and now is not None:
            rows.append((name, form(was), form(now), percent(now / was) if has_share and was else ""))
    threads = after["threads"].number()
    if not rows:
        return None
    return {"rows": rows, "threads": None if threads is None else int(threads), "runtime": in_runtime(record["prune"])}


def in_runtime(prune: Field) -> str:
    """Words that say which runtime latency was measured in, for the end of a sentence; none for PyTorch itself."""
    name = prune["after"]["runtime"].text()
    return "" if name in ("", "torch") else f" in {RUNTIMES[name].title if name in RUNTIMES else name}"
