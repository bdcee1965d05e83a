"""Scores and checks for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dfpc_plugin.display import first_and_more
from dfpc_plugin.report.check import ModelCheck
from dfpc_plugin.report.summary import CouplingSummary, ModelScore, ScoreRange, summarise
from dfpc_plugin.saliency import Ranking, Saliency

__all__ = ["coupling_table", "print_check", "print_score"]

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
    shapes = " and ".join("x".join(map(str, shape)) for shape in score.input_shapes)
    console.print(
        Text(score.model, style="bold").append(
            f", {'pretrained' if score.pretrained else 'random'} weights, input {shapes}: {len(saliency)} layers, "
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
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("Feed-in layers", min_width=14)
    for heading in ("Feed-out", "Width", "Lowest", "@", "Median", "Highest", "@"):
        table.add_column(heading, justify="left" if heading == "@" else "right", no_wrap=True)
    for summary in _selected(saliency, top):
        coupling = summary.coupling
        cells = ("mixed", *[""] * 5) if summary.mixed else _cells(summary.range, 1)
        table.add_row(str(summary.index), first_and_more(coupling.feed_in), str(len(coupling.feed_out)), *cells)
        for layers, values in summary.by_width:
            table.add_row(
                "", Padding(first_and_more(layers), (0, 0, 0, 2)), "", *_cells(values, len(layers)), style="dim"
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
    return (
        str(values.width // layers),
        f"{values.lowest:.3g}",
        str(values.lowest_channel) if layers == 1 else "",
        f"{values.median:.3g}",
        f"{values.highest:.3g}",
        str(values.highest_channel) if layers == 1 else "",
    )


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
