"""Couplings for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.display import Name, counted, first_and_more
from dfpc_plugin.report.couplings import ModelCouplings

__all__ = ["print_coupling", "print_couplings"]

_SMALL_PRINT = (
    "A coupling has the name of the first layer that produces it (feed-in); feed-out layers consume it. A unit is "
    "the smallest removable part: one channel, or one of every block. MACs: of all layers that produce or consume "
    "it, so shares overlap."
)


def print_couplings(found: ModelCouplings, console: Console, everything: bool = False) -> None:
    """Print the couplings that can be pruned, those that must stay, and how much of the model they are.

    With `everything`, also what no layer writes, and every protected coupling by itself.
    """
    _print_heading(found, console)
    if found.prunable:
        console.print(_prunable_table(found.prunable))
    protected = [*found.protected, *found.positions] if everything else found.protected
    if protected:
        console.print(_protected_table([[c] for c in protected] if everything else _alike(protected)))
    shown = len(found.prunable) + len(protected)
    macs, parameters = _percent(found.prunable_macs), _percent(found.prunable_parameters)
    console.print(
        f"{counted(shown, 'coupling')}; {len(found.prunable)} can be pruned; {macs} of the MACs and "
        f"{parameters} of the parameters lie in couplings that can be pruned"
    )
    if found.positions and not everything:
        console.print(Text(_positions_line(found.positions)))
    console.print(Text(_SMALL_PRINT, style="dim"))


def print_coupling(coupling: DataFlowCoupling, found: ModelCouplings, console: Console) -> None:
    """Print one coupling of `found` in full: every tensor and dimension that goes with its units."""
    blocks = f" in {len(coupling.blocks)} blocks" if len(coupling.blocks) > 1 else ""
    numbers = f"{counted(coupling.channels, 'unit')}, {counted(coupling.width, 'channel')}{blocks}"
    line = f": {numbers}, {_percent(coupling.macs)} of the MACs"
    console.print(Text(coupling.name, style="bold").append(line, style="not bold"))
    if coupling.protected is None:
        console.print(Text("Can be pruned", style="green"))
    else:
        console.print(Text(f"Protected: {coupling.protected}", style="yellow"))
    for note in coupling.balance:
        console.print(Text(f"Kept equal: {note}"))
    table = _table("Tensor")
    for heading in ("Dim", "Size", "Per unit"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Role", no_wrap=True)
    for piece in coupling.slices:
        size = found.sizes[piece.tensor][piece.dim]
        length = f"{size} x {piece.groups} groups" if piece.groups > 1 else str(size)
        table.add_row(Name(piece.tensor), str(piece.dim), length, str(piece.indices.size(1)), piece.role)
    console.print(table)
    console.print(Text("Per unit: how many indices of the dimension go with each unit.", style="dim"))


def _print_heading(found: ModelCouplings, console: Console) -> None:
    shapes = " and ".join("x".join(map(str, shape)) for shape in found.input_shapes)
    line = f", input {shapes}; {found.seconds:.1f} s"
    console.print(Text(found.model, style="bold").append(line, style="not bold"))


def _prunable_table(couplings: Iterable[DataFlowCoupling]) -> Table:
    """One row per coupling, in the order of the model."""
    table = _table("Coupling")
    for heading in ("Units", "Width", "MACs", "Feed-in"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Feed-out", min_width=14)
    for c in couplings:
        cells = (str(c.channels), _width(c), _percent(c.macs), str(len(c.feed_in)))
        table.add_row(Name(c.name), *cells, first_and_more(c.feed_out))
    return table


def _protected_table(rows: Iterable[Sequence[DataFlowCoupling]]) -> Table:
    """One row for couplings that are alike, with the reason why they stay."""
    table = _table("Protected")
    for heading in ("Width", "MACs", "Feed-in", "Feed-out"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Why", overflow="fold", min_width=24)
    for alike in rows:
        first, more = alike[0], len(alike) - 1
        name = Name(first.name, f" and {more} alike" if more else "")
        share = _percent(sum(c.macs for c in alike))
        sides = (str(len(first.feed_in)), str(len(first.feed_out)))
        table.add_row(name, _width(first), share, *sides, Text(first.protected or ""))
    return table


def _alike(couplings: Iterable[DataFlowCoupling]) -> Iterator[list[DataFlowCoupling]]:
    """Put together what differs only by the numbers in its name, as the blocks of a model do."""
    found: dict[tuple[str, ...], list[DataFlowCoupling]] = {}
    for coupling in couplings:
        words = (coupling.name, coupling.protected or "", *coupling.feed_in, *coupling.feed_out)
        key = (*(re.sub(r"\d+", "0", word) for word in words), _width(coupling))
        found.setdefault(key, []).append(coupling)
    yield from found.values()


def _positions_line(positions: Sequence[DataFlowCoupling]) -> str:
    entries = sum(coupling.width for coupling in positions)
    return (
        f"{len(positions)} more protected, with {entries} entries that no layer produces (input channels, "
        f"positions, constants); --all lists {'it' if len(positions) == 1 else 'them'}"
    )


def _table(first: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, min_width=16)
    return table


def _width(coupling: DataFlowCoupling) -> str:
    """How many channels there are; where they come in blocks, units by blocks."""
    blocks = len(coupling.blocks)
    return str(coupling.width) if blocks == 1 else f"{coupling.channels} x {blocks} blocks"


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
