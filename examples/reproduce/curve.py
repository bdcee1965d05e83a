"""Plot accuracy against MACs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfpc_plugin.files import write_bytes
from dfpc_plugin.require import require

# Okabe and Ito's colours, each with its own marker; dashed lines leave coupled channels unpruned.
_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))


def write_curve(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Draw every criterion, with and without coupled channels, into an SVG file."""
    matplotlib = require("matplotlib", "matplotlib", "plots")
    figure = require("matplotlib.figure", "matplotlib", "plots").Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots()
    pruned = [row for row in rows if row["criterion"]]
    base = next(row for row in rows if not row["criterion"])
    axes.axhline(base["top1"], color="#333333", linewidth=1, label=f"Unpruned ({base['top1']:.1f} %)")
    criteria = list(dict.fromkeys(row["label"] for row in pruned))
    for coupled in (True, False):
        for label, (colour, marker) in zip(criteria, _STYLES, strict=False):
            own = [row for row in pruned if row["label"] == label and row["coupled"] == coupled]
            points = sorted({(row["macs_fewer"], row["top1"]) for row in own})
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=colour, marker=marker, linestyle="-" if coupled else "--",
                    markerfacecolor=colour if coupled else "none", label=label if coupled else f"{label}, uncoupled only",
                )  # fmt: skip
    axes.set_xlabel("MACs, reduction factor")
    axes.set_ylabel("Accuracy (%)")
    axes.set_title(title, fontsize=11)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dfpc", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_bytes(path, buffer.getvalue())
