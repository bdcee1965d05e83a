"""The figure of every cell over its cost, drawn for print and screen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from dfpc_plugin.comparing.cells import Metric, Unpruned
from dfpc_plugin.comparing.table import Row, repairs_of
from dfpc_plugin.criteria import AUTO
from dfpc_plugin.display.figures import GRID, INK, PALETTE, new_figure

_MARKERS, _DASHES = "os^DvPX*<>", ("-", "--", ":", "-.")
_ACROSS = 3


def draw_comparison(rows: Sequence[Row], metric: Metric, source: str, unpruned: Unpruned) -> Any:
    """Return a matplotlib figure: one panel for each repair, one line for each criterion, error bars over seeds."""
    repairs = repairs_of(rows)
    across = min(_ACROSS, len(repairs))
    down = -(-len(repairs) // across)
    figure = new_figure(1.2 + 4.2 * across, 1.2 + 3.6 * down)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for panel, repair in itertools.zip_longest(panels.flat, repairs):
        panel.set_visible(repair is not None)
        if repair is not None:
            _draw_panel(panel, rows, repair, metric, unpruned)
    for first in panels[:, 0]:
        first.set_ylabel(metric.label)
    panels[0, 0].invert_xaxis()  # shared: every panel reads from the whole model to the small one
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    figure.suptitle(f"Measured on {source}", color=INK, fontsize=11)
    return figure


def _draw_panel(axes: Any, rows: Sequence[Row], repair: str, metric: Metric, unpruned: Unpruned) -> None:
    if unpruned.value:
        axes.axhline(
            metric.scale * unpruned.value, color=INK, linewidth=1, label=f"Unpruned ({metric.text(unpruned.value)})"
        )
    for number, criterion in enumerate(dict.fromkeys(row.criterion for row in rows)):
        own = [row for row in rows if row.criterion == criterion]
        points = [
            (cost.mean, value) for row in own if (cost := row.cost("macs", repair)) and (value := row.values(repair))
        ]
        points.sort(key=lambda point: -point[0])
        deviations = [metric.scale * value.std for _, value in points]
        axes.errorbar(
            [100 * cost for cost, _ in points],
            [metric.scale * value.mean for _, value in points],
            yerr=deviations if any(deviations) else None,
            label=own[0].name,
            color=PALETTE[number % len(PALETTE)],
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle=_DASHES[number // len(PALETTE) % len(_DASHES)],
            linewidth=2.4 if criterion == AUTO else 1.4,
            markersize=6,
            capsize=3,
        )
    if not metric.higher_is_better:
        axes.set_yscale("log")
    axes.set_title("not repaired" if repair == "none" else f"repaired by {repair}", fontsize=11, color=INK)
    axes.set_xlabel("MACs that remain (%)")
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
