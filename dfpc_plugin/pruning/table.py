"""The result of pruning as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dfpc_plugin.display import TERMINAL_WIDTH, as_text, counted, percent, took
from dfpc_plugin.latency import speedup_note
from dfpc_plugin.runtimes import RUNTIMES
from dfpc_plugin.selection import meets, stated

_LATENCY, _IQR = "latency (ms)", "  interquartile range"
_ROWS: tuple[tuple[str, Callable[[Any], float | None], str], ...] = (
    ("channels", lambda figures: figures.channels, "{:,.0f}"),
    ("MACs", lambda figures: figures.macs, "{:,.0f}"),
    ("parameters", lambda figures: figures.parameters, "{:,.0f}"),
    (_LATENCY, lambda figures: None if figures.latency is None else 1e3 * figures.latency.median, "{:.2f}"),
    (_IQR, lambda figures: None if figures.latency is None else 1e3 * figures.latency.iqr, "{:.2f}"),
    ("score", lambda figures: figures.score, "{:.4g}"),
)
"""Name of a figure, how to read it, and its format."""


def result_table(result: Any, width: int = TERMINAL_WIDTH, *, with_seconds: bool = True, **layers: Any) -> str:
    """Return figures before and after, layers that lost most, and the time of each phase, as text of `width` columns.

    `layers` are arguments of `LayerTable.short`.
    """
    return as_text(
        _asked(result),
        _figures(result),
        *(result.widths.short(**layers) if len(result.widths) else ()),
        _couplings(result),
        *([took(result.seconds)] if with_seconds else []),
        *([] if result.repair is None else [result.repair.summary]),
        *_latency_notes(result),
        *result.notes,
        width=width,
    )


def result_summary(result: Any) -> str:
    """Return the result in a few lines."""
    figures = [f"  {name.strip()} {' -> '.join((before, after))} {left}" for name, before, after, left in _rows(result)]
    repair = [] if result.repair is None else [f"  {result.repair.summary}"]
    return "\n".join([
        f"PruneResult of {type(result.model).__name__}. {_asked(result)}", *(line.rstrip() for line in figures),
        f"  {_couplings(result)}", *repair, "  print it for tables; layers() has the widths of all layers, notes what to know",
    ])  # fmt: skip


def _latency_notes(result: Any) -> list[str]:
    """What latency was measured with, and what to know of a speed-up that is not the ratio of the latencies above it."""
    before, after = result.before.latency, result.after.latency
    if before is None or after is None:
        return []
    measured = f"Latency was measured in {RUNTIMES[after.runtime].title} ({after.conditions}), both models in turns."
    return list(filter(None, [measured, speedup_note(before.median, after.median, result.speedup)]))


def _asked(result: Any) -> str:
    asked = {name: getattr(result.target, name) for name in result.reached}
    figures = ", ".join(f"{name}={stated(name, value, asked[name])}" for name, value in result.reached.items())
    verb = "reached" if all(meets(name, value, asked[name]) for name, value in result.reached.items()) else "came to"
    return f"Asked for {result.target}; {verb} {figures}"


def _in_runtime(result: Any) -> str:
    """The runtime in which latency was measured; empty for PyTorch."""
    latency = result.after.latency
    return "" if latency is None or latency.runtime == "torch" else f" in {RUNTIMES[latency.runtime].title}"


def _rows(result: Any) -> Iterator[tuple[str, str, str, str]]:
    """Every known figure, before and after, and the remaining share."""
    for name, read, form in _ROWS:
        before, after = read(result.before), read(result.after)
        if before is not None and after is not None:
            share = percent(after / before) if before and name != _IQR else ""
            where = _in_runtime(result) if name == _LATENCY else ""
            yield name + where, form.format(before), form.format(after), share
    if result.speedup is not None:
        yield "speed-up", "1x", f"{result.speedup:.2f}x", ""


def _figures(result: Any) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for column in ("before", "after", "remaining"):
        table.add_column(column, justify="right")
    for row in _rows(result):
        table.add_row(*row)
    return table


def _couplings(result: Any) -> str:
    cut = sum(coupling.after < coupling.before for coupling in result.couplings)
    protected = f"; {len(result.protected)} more protected" if result.protected else ""
    return f"{cut} of {counted(len(result.couplings), 'coupling')} lost channels{protected}."
