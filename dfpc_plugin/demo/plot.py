"""Accuracy against cost, drawn for print and screen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from dfpc_plugin.demo.result import DemoResult, Row
from dfpc_plugin.files import write_bytes
from dfpc_plugin.require import require

__all__ = ["draw", "write_plot"]

# Okabe and Ito's palette, which the common kinds of colour blindness tell apart; markers and dashes say it again.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    {"color": "#009E73", "marker": "^", "linestyle": ":"},
    {"color": "#CC79A7", "marker": "D", "linestyle": "-."},
    {"color": "#E69F00", "marker": "v", "linestyle": (0, (5, 1, 1, 1))},
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (1, 1))},
)
_INK = "#333333"


def write_plot(result: DemoResult, directory: Path) -> dict[str, Path]:
    """Draw `result` into `accuracy.svg` and `accuracy.png` in `directory`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "matplotlib", "demo")
    files = {}
    # No date and a fixed salt: the same result gives the same bytes. The settings end with this block.
    with matplotlib.rc_context({"svg.hashsalt": "dfpc", "font.size": 11, "font.family": "DejaVu Sans"}):
        figure = draw(result)
        for kind, metadata in {"svg": {"Date": None}, "png": {}}.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
            files[kind] = write_bytes(directory / f"accuracy.{kind}", buffer.getvalue())
    return files


def draw(result: DemoResult) -> Any:
    """Return a matplotlib figure: one panel without repair, one for re-estimated batch norm statistics."""
    # Figure without pyplot: no window, no global state, whatever backend the user has set.
    figure = require("matplotlib.figure", "matplotlib", "demo").Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    _panel(left, result, "accuracy", "Cut only, without any data")
    _panel(
        right,
        result,
        "accuracy_reestimated",
        f"BatchNorm statistics re-estimated\non {result.batchnorm_images} unlabelled images",
    )
    left.set_ylabel(f"Accuracy on {result.test_images} test images (%)")
    left.set_ylim(0, 104)
    left.invert_xaxis()  # shared: both panels read from the whole network to the small one
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("Pruning a small ResNet on scanned digits at equal cost, no fine-tuning", color=_INK)
    return figure


def _panel(axes: Any, result: DemoResult, figure: str, title: str) -> None:
    """Draw the base accuracy as a line, and each criterion as points with the spread of its random cuts."""
    base = 100 * result.base.accuracy
    axes.axhline(base, color=_INK, linewidth=1, label=f"Unpruned ({base:.1f} %)")
    rows_by_label: dict[str, list[Row]] = {}
    for row in result.rows():
        rows_by_label.setdefault(row.label, []).append(row)
    for (label, rows), style in zip(rows_by_label.items(), _STYLES, strict=False):
        spreads = [row.spread(lambda figures: getattr(figures, figure)) for row in rows]
        axes.errorbar(
            [100 * row.spread(lambda figures: figures.macs / result.base.macs).mean for row in rows],
            [100 * spread.mean for spread in spreads],
            yerr=[100 * spread.std for spread in spreads] if any(spread.std for spread in spreads) else None,
            label=label,
            linewidth=1.8,
            markersize=7,
            capsize=4,
            **style,
        )
    axes.set_title(title, fontsize=11, color=_INK)
    axes.set_xlabel("MACs kept (%)")
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
