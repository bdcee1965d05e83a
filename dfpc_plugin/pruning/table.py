"""The result of pruning as a table."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfpc_plugin.runtimes import RUNTIMES
from dfpc_plugin.selection import meets, stated

if TYPE_CHECKING:
    from dfpc_plugin.pruning.result import Figures, PruneResult

__all__ = ["result_table"]

_SHOWN = 12
_WIDTH = 100


def result_table(result: PruneResult) -> str:
    """Return the figures before and after, what couplings have lost, and where the time went, as text."""
    text = io.StringIO()
    console = Console(file=text, width=_WIDTH)
    console.print(_figures(result))
    console.print(_couplings(result))
    seconds = ", ".join(f"{phase} {took:.1f} s" for phase, took in result.seconds.items())
    console.print(Text(f"Took {sum(result.seconds.values()):.1f} s: {seconds}."))
    if result.repair is not None:
        console.print(Text(result.repair.summary))
    for note in result.notes:
        console.print(Text(note))
    return text.getvalue().rstrip()


def _figures(result: PruneResult) -> Table:
    """Before and after."""
    asked = asdict(result.target)
    figures = ", ".join(f"{name}={stated(name, value, asked[name])}" for name, value in result.reached.items())
    verb = "reached" if all(meets(name, value, asked[name]) for name, value in result.reached.items()) else "came to"
    table = Table(title=f"Asked for {result.target}; {verb} {figures}", title_justify="left")
    table.add_column("")
    for column in ("before", "after", "left"):
        table.add_column(column, justify="right")
    measured = result.after.latency
    in_runtime = "" if measured is None or measured.runtime == "torch" else f" in {RUNTIMES[measured.runtime].title}"
    rows: list[tuple[str, Callable[[Figures], float | None], str]] = [
        ("channels", lambda figures: figures.channels, "{:,.0f}"),
        ("MACs", lambda figures: figures.macs, "{:,.0f}"),
        ("parameters", lambda figures: figures.parameters, "{:,.0f}"),
        (
            f"milliseconds{in_runtime}",
            lambda figures: None if figures.latency is None else 1e3 * figures.latency.median,
            "{:.2f}",
        ),
        ("  spread", lambda figures: None if figures.latency is None else 1e3 * figures.latency.iqr, "{:.2f}"),
        ("score", lambda figures: figures.score, "{:.4g}"),
    ]
    for name, read, form in rows:
        before, after = read(result.before), read(result.after)
        if before is not None and after is not None:
            left = f"{after / before:.1%}" if before and name != "  spread" else ""
            table.add_row(name, form.format(before), form.format(after), left)
    if result.speedup is not None:
        table.add_row("speed-up", "", f"{result.speedup:.2f}x", "")
    return table


def _couplings(result: PruneResult) -> Table:
    """The couplings that have lost the largest shares."""
    cut = [coupling for coupling in result.couplings if coupling.after < coupling.before]
    cut.sort(key=lambda coupling: coupling.after / coupling.before)
    table = Table(title=f"{len(cut)} of {len(result.couplings)} couplings lost units", title_justify="left")
    table.add_column("coupling", overflow="fold")
    for column in ("layers", "before", "after", "left"):
        table.add_column(column, justify="right")
    for coupling in cut[:_SHOWN]:
        left = f"{coupling.after / coupling.before:.0%}"
        table.add_row(coupling.name, str(len(coupling.layers)), str(coupling.before), str(coupling.after), left)
    if len(cut) > _SHOWN:
        table.add_row(f"and {len(cut) - _SHOWN} more", "", "", "", "")
    return table
