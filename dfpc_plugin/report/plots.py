"""Saliency of every coupling in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.display.figures import GRID, INK, PALETTE, drawn, new_figure
from dfpc_plugin.display.text import counted, distinct_names
from dfpc_plugin.report.page.chart import Logarithmic
from dfpc_plugin.report.summary import CouplingSummary, summarise
from dfpc_plugin.saliency import Saliency

_STYLES = {
    "one feed-in layer": (PALETTE[0], "o"),
    "several: they can only be cut together": (PALETTE[1], "s"),
    "several, of different widths": (PALETTE[2], "^"),
}
_NAMES_UP_TO = 80
_NAME_LENGTH = 26


def write_plot(saliency: Saliency, path: Path, title: str = "") -> None:
    """Draw `saliency` into a PNG, SVG or PDF file, by its ending; raise an OutputError if it cannot be written."""
    drawn(lambda: draw_saliency(saliency, title), Path(path))


def draw_saliency(saliency: Saliency, title: str = "") -> Any:
    """Return a matplotlib figure: range, middle half and median of each coupling's scores, in forward order.

    The scale is logarithmic. A score of zero has no place on it and is marked at the bottom. Outliers are left out.
    """
    summaries = summarise(saliency)
    inches = 2 + (0.21 if len(summaries) <= _NAMES_UP_TO else 0.1) * len(summaries)
    figure = new_figure(min(20.0, max(7.5, inches)), 5.6)
    axes = figure.subplots()
    for label, (colour, marker) in _STYLES.items():
        group = [summary for summary in summaries if _style(summary) == label]
        if group:
            _draw_group(axes, saliency, group, label, colour, marker)
    zeros = [summary.index for summary in summaries if bool((_scores(saliency, summary) == 0).any())]
    if zeros:  # which lie infinitely far down
        at_bottom = axes.get_xaxis_transform()
        axes.plot(zeros, [0.012] * len(zeros), "v", c=INK, ms=5, transform=at_bottom, label="and channels at zero")
    _label_axes(axes, summaries, title)
    _leave_out_outliers(axes, [score for summary in summaries for score in _scores(saliency, summary).tolist()])
    return figure


def _leave_out_outliers(axes: Any, scores: list[float]) -> None:
    """End the axis where the report's strips end, if scores lie beyond, and say how many."""
    scale = Logarithmic.over(scores, trimmed=True)
    beyond = 0 if scale is None else sum(scale.beyond(scores))
    if scale is not None and beyond:
        axes.set_ylim(10.0**scale.low, 10.0**scale.high)
        axes.set_ylabel(f"{axes.get_ylabel()} ({counted(beyond, 'outlier')} beyond the axis)")


def _draw_group(
    axes: Any, saliency: Saliency, group: list[CouplingSummary], label: str, colour: str, marker: str
) -> None:
    """Thin line: all scores above zero; thick line: the middle half; marker: the median."""
    drawn = [(summary.index, _scores(saliency, summary)) for summary in group]
    spread = [(index, _quantiles(scores[scores > 0])) for index, scores in drawn if bool((scores > 0).any())]
    at = [index for index, _ in spread]
    low, lower, middle, upper, high = zip(*(values for _, values in spread), strict=True) if spread else ((),) * 5
    axes.vlines(at, low, high, color=colour, linewidth=1)
    axes.vlines(at, lower, upper, color=colour, linewidth=5, alpha=0.45)
    axes.plot(at, middle, linestyle="", marker=marker, markersize=5, color=colour, label=label)


def _label_axes(axes: Any, summaries: tuple[CouplingSummary, ...], title: str) -> None:
    axes.set_yscale("log")
    axes.set_ylabel("Saliency of a channel")
    axes.set_xlim(0.3, len(summaries) + 0.7)
    if len(summaries) <= _NAMES_UP_TO:
        # Read upwards, a label ends at the axis: the number comes last.
        layers = [summary.coupling.feed_in for summary in summaries]
        firsts = distinct_names([names[0] for names in layers], _NAME_LENGTH)
        more = [f" +{len(names) - 1}" if len(names) > 1 else "" for names in layers]
        names = [f"{first}{rest}   {s.index}" for first, rest, s in zip(firsts, more, summaries, strict=True)]
        axes.set_xticks([summary.index for summary in summaries], names, rotation=90, fontsize=7)
        label = "Coupling: its first feed-in layer, and its number"
    else:
        label = "Coupling, by its number"
    axes.set_xlabel(f"{label}\nLine: all channels; bar: the middle half; marker: the median", fontsize=9)
    axes.set_title(title, color=INK, fontsize=11)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _style(summary: CouplingSummary) -> str:
    one, several, mixed = _STYLES
    if summary.mixed:
        return mixed
    return one if len(summary.coupling.feed_in) == 1 else several


def _scores(saliency: Saliency, summary: CouplingSummary) -> Tensor:
    """The coupling's scores, or its layers' scores together where they cannot be summed; finite ones only."""
    scores = summary.scores
    if scores is None:
        scores = torch.cat([saliency[layer] for layer in summary.coupling.feed_in])
    return scores[torch.isfinite(scores)]


def _quantiles(scores: Tensor) -> list[float]:
    return scores.quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=scores.dtype)).tolist()
