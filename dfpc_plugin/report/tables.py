"""Scores, checks and couplings for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.display import Name, counted, first_and_more, number_columns, percent, plain_table, shapes_text
from dfpc_plugin.report.check import ModelCheck
from dfpc_plugin.report.couplings import ModelCouplings
from dfpc_plugin.report.summary import CouplingSummary, ModelScore, ScoreRange, summarise
from dfpc_plugin.saliency import Ranking, Saliency

_MODULES_SHOWN = 6
_OTHERS = "--ranking takes output, expected, relative or published"
_RANKED_BY: dict[Ranking, str] = {
    "output": "Score: a channel's share of the variance at the model's outputs, the criterion of dfpc prune, which also divides by "
    f"what a channel costs and counts what repair compensates. {_OTHERS}.",
    "expected": f"Score: a channel's share of the variance at the layers that read it. {_OTHERS}.",
    "relative": f"Score: a channel's share of the bounds at the layers that read it. {_OTHERS}.",
    "published": f"Score: the bounds of the paper's Algorithm 1, unscaled; dfpc prune does not use them by default. {_OTHERS}.",
}
"""What scores are, and whether `dfpc prune` goes by them."""


def print_score(score: ModelScore, console: Console, top: int | None = None) -> None:
    """Print what was scored, the table of couplings and the small print."""
    saliency = score.saliency
    weights, shapes = "pretrained" if score.pretrained else "random", shapes_text(score.input_shapes)
    console.print(
        Text(score.model, style="bold").append(
            f", {weights} weights, input {shapes}: {len(saliency)} layers, "
            f"{score.channels} channels, {len(saliency.couplings)} couplings; {score.ranking} ranking, "
            f"{score.seconds:.1f} s",
            style="not bold",
        )
    )
    console.print(coupling_table(saliency, top))
    console.print(Text("\n".join(_small_print(score, top)), style="dim"))


def coupling_table(saliency: Saliency, top: int | None = None) -> Table:
    """Return one row per coupling, in the order of the forward pass; with `top`, only of those with the lowest scores.

    A coupling of layers with different widths gets a row for each width below it: there, scores are those of the
    layers, not sums over them.
    """
    numbers = number_columns("Feed-out", "Width", "Lowest", "@", "Median", "Highest", "@")
    numbers[3].justify = numbers[6].justify = "left"
    table = plain_table(*number_columns("#"), Column("Feed-in layers", min_width=14), *numbers)
    selected = _selected(saliency, top)
    rows = [
        layers for summary in selected for layers in (summary.coupling.feed_in, *(own for own, _ in summary.by_width))
    ]
    names = [layer for layers in rows for layer in layers[:1]]
    for summary in selected:
        coupling = summary.coupling
        cells = ("mixed", *[""] * 5) if summary.mixed else _cells(summary.range, 1)
        table.add_row(str(summary.index), first_and_more(coupling.feed_in, names), str(len(coupling.feed_out)), *cells)
        for layers, values in summary.by_width:
            table.add_row(
                "", Padding(first_and_more(layers, names), (0, 0, 0, 2)), "", *_cells(values, len(layers)), style="dim"
            )
    return table


def print_check(check: ModelCheck, console: Console) -> None:
    """Print one line for a model that can be scored, and what stands in the way for one that cannot."""
    line = Text(check.model, style="bold")
    if check.ok:
        numbers = f"{check.layers} feed-in layers, {check.couplings} couplings"
        line.append("  ok", style="green").append(f"  {numbers}", style="not bold")
    elif check.missing:
        line.append(f"  {len(check.missing)} operator(s) without a rule", style="red")
    else:
        line.append(f"  cannot be scored: {check.error}", style="red")
    console.print(line, soft_wrap=True)
    for entry in check.missing:
        console.print(Text(f"  {entry.function}").append(f"  in {_modules(entry.modules)}", "dim"), soft_wrap=True)


def _selected(saliency: Saliency, top: int | None) -> Sequence[CouplingSummary]:
    summaries = summarise(saliency)
    if top is None or top >= len(summaries):
        return summaries
    chosen = sorted(summaries, key=lambda summary: summary.range.lowest)[:top]
    return sorted(chosen, key=lambda summary: summary.index)


def _cells(values: ScoreRange, layers: int) -> tuple[str, ...]:
    """Width, lowest, its channel, median, highest, its channel; several layers' scores together have no one channel."""
    at = [str(channel) if layers == 1 else "" for channel in (values.lowest_channel, values.highest_channel)]
    low, middle, high = (f"{value:.3g}" for value in (values.lowest, values.median, values.highest))
    return str(values.width // layers), low, at[0], middle, high, at[1]


def _small_print(score: ModelScore, top: int | None) -> list[str]:
    lines = [
        _RANKED_BY[score.ranking],
        "Scores are summed over a coupling's feed-in layers; @ is the channel that has the score.",
    ]
    summaries = summarise(score.saliency)
    if any(summary.mixed for summary in summaries):
        lines.append("mixed: the feed-in layers have different widths, so scores are those of single layers, by width.")
    if top is not None and top < len(summaries):
        lines.append(f"Only the {top} with the lowest scores; {len(summaries) - top} more couplings are not shown.")
    if not score.pretrained:
        lines.append("These are the scores of random weights; --pretrained loads trained ones.")
    return lines


def _modules(names: Sequence[str]) -> str:
    shown = ", ".join(name or "the model itself" for name in names[:_MODULES_SHOWN])
    more = len(names) - _MODULES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


_SMALL_PRINT = (
    "A coupling has the name of the first layer that produces it (feed-in); feed-out layers consume it. A unit is "
    "the smallest removable part: one channel, or one of every block. MACs: of all layers that produce or consume "
    "it, so shares overlap."
)


def print_couplings(found: ModelCouplings, console: Console, everything: bool = False) -> None:
    """Print the couplings that can be pruned, those that must stay, and how much of the model they are.

    With `everything`, also what no layer writes, and every protected coupling by itself.
    """
    line = f", input {shapes_text(found.input_shapes)}; {found.seconds:.1f} s"
    console.print(Text(found.model, style="bold").append(line, style="not bold"))
    if found.prunable:
        console.print(_prunable_table(found.prunable))
    protected = [*found.protected, *found.positions] if everything else found.protected
    if protected:
        console.print(_protected_table([[c] for c in protected] if everything else _alike(protected)))
    shown = len(found.prunable) + len(protected)
    macs, parameters = percent(found.prunable_macs), percent(found.prunable_parameters)
    console.print(
        f"{counted(shown, 'coupling')}; {len(found.prunable)} can be pruned; {macs} of the MACs and "
        f"{parameters} of the parameters lie in couplings that can be pruned"
    )
    if found.positions and not everything:
        entries, them = (
            sum(coupling.width for coupling in found.positions),
            "it" if len(found.positions) == 1 else "them",
        )
        console.print(
            f"{len(found.positions)} more protected, with {entries} entries that no layer produces (input channels, positions, "
            f"constants); --all lists {them}"
        )
    console.print(Text(_SMALL_PRINT, style="dim"))


def print_coupling(coupling: DataFlowCoupling, found: ModelCouplings, console: Console) -> None:
    """Print one coupling of `found` in full: every tensor and dimension that goes with its units."""
    blocks = f" in {len(coupling.blocks)} blocks" if len(coupling.blocks) > 1 else ""
    numbers = f"{counted(coupling.channels, 'unit')}, {counted(coupling.width, 'channel')}{blocks}"
    line = f": {numbers}, {percent(coupling.macs)} of the MACs"
    console.print(Text(coupling.name, style="bold").append(line, style="not bold"))
    if coupling.protected is None:
        console.print(Text("Can be pruned", style="green"))
    else:
        console.print(Text(f"Protected: {coupling.protected}", style="yellow"))
    for note in coupling.balance:
        console.print(Text(f"Kept equal: {note}"))
    first = Column("Tensor", min_width=16)
    table = plain_table(first, *number_columns("Dim", "Size", "Per unit"), Column("Role", no_wrap=True))
    names = [piece.tensor for piece in coupling.slices]
    for piece in coupling.slices:
        size = found.sizes[piece.tensor][piece.dim]
        length = f"{size} x {piece.groups} groups" if piece.groups > 1 else str(size)
        table.add_row(Name(piece.tensor, among=names), str(piece.dim), length, str(piece.indices.size(1)), piece.role)
    console.print(table)
    console.print(Text("Per unit: how many indices of the dimension go with each unit.", style="dim"))


def _prunable_table(couplings: Sequence[DataFlowCoupling]) -> Table:
    """One row per coupling, in the order of the model."""
    first = Column("Coupling", min_width=16)
    table = plain_table(first, *number_columns("Units", "Width", "MACs", "Feed-in"), Column("Feed-out", min_width=14))
    names, readers = [c.name for c in couplings], [layer for c in couplings for layer in c.feed_out[:1]]
    for c in couplings:
        cells = (str(c.channels), _width(c), percent(c.macs), str(len(c.feed_in)))
        table.add_row(Name(c.name, among=names), *cells, first_and_more(c.feed_out, readers))
    return table


def _protected_table(rows: Sequence[Sequence[DataFlowCoupling]]) -> Table:
    """One row for couplings that are alike, with the reason why they stay."""
    head, why = Column("Protected", min_width=16), Column("Why", overflow="fold", min_width=24)
    table = plain_table(head, *number_columns("Width", "MACs", "Feed-in", "Feed-out"), why)
    names = [alike[0].name for alike in rows]
    for alike in rows:
        first, more = alike[0], len(alike) - 1
        name = Name(first.name, f" and {more} alike" if more else "", among=names)
        share = percent(sum(c.macs for c in alike))
        sides = (str(len(first.feed_in)), str(len(first.feed_out)))
        table.add_row(name, _width(first), share, *sides, Text(first.protected or ""))
    return table


def _alike(couplings: Iterable[DataFlowCoupling]) -> list[list[DataFlowCoupling]]:
    """Put together what differs only by the numbers in its name, as the blocks of a model do."""
    found: dict[tuple[str, ...], list[DataFlowCoupling]] = {}
    for coupling in couplings:
        words = (coupling.name, coupling.protected or "", *coupling.feed_in, *coupling.feed_out)
        key = (*(re.sub(r"\d+", "0", word) for word in words), _width(coupling))
        found.setdefault(key, []).append(coupling)
    return list(found.values())


def _width(coupling: DataFlowCoupling) -> str:
    """How many channels there are; where they come in blocks, units by blocks."""
    blocks = len(coupling.blocks)
    return str(coupling.width) if blocks == 1 else f"{coupling.channels} x {blocks} blocks"
