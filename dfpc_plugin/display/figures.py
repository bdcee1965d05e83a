"""Figures with matplotlib, and a bar chart of the widths of layers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dfpc_plugin.display.text import distinct_names
from dfpc_plugin.files import OutputError, require_writable, write_bytes
from dfpc_plugin.require import require

_FORMATS = (".png", ".svg", ".pdf")
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which remain distinct with the common kinds of colour blindness; markers differ, too."""
INK, GRID = "#333333", "#DDDDDD"
_KEPT, _REMOVED = PALETTE[0], "#D9DEE3"
_NAMES_UP_TO, _NAME_LENGTH = 130, 36


def require_plottable(path: Path) -> None:
    """Raise OutputError if a plot cannot be written to `path`, MissingDependencyError without matplotlib."""
    if path.suffix.lower() not in _FORMATS:
        raise OutputError(f"Cannot draw '{path}': end its name in {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}.")
    require_writable(path)
    require("matplotlib", "matplotlib", "plots")


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure, with sizes in inches, that notebooks can show.

    It is made without pyplot, so it opens no window and changes no global state, with any backend. Notebooks show
    figures only by pyplot, so this one provides a PNG. Raises MissingDependencyError if matplotlib is not installed.
    """
    figure_class: Any = require("matplotlib.figure", "matplotlib", "plots").Figure

    class Figure(figure_class):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

    return Figure(figsize=(width, height), layout="constrained")


def draw_layers(rows: Sequence[tuple[str, int, int]], path: str | Path | None = None) -> Any:
    """Return a matplotlib figure with a bar for every layer: all of its channels, and those that remain.

    `rows` are the name of the layer, the channels before, and the channels after; the rest is as for `drawn`.
    """
    return drawn(lambda: _bars(rows), path)


def drawn(draw: Callable[[], Any], path: str | Path | None) -> Any:
    """Call `draw` and return its figure; if there is a path, also write it to that PNG, SVG or PDF file.

    The same figure gives the same bytes on every machine. Raises OutputError if it cannot be written, and
    MissingDependencyError if matplotlib is not installed.
    """
    target = None if path is None else Path(path)
    if target is not None:
        require_plottable(target)
    settings = {"svg.hashsalt": "dfpc", "font.family": "DejaVu Sans"}
    with require("matplotlib", "matplotlib", "plots").rc_context(settings):
        figure = draw()
        if target is not None:
            buffer, kind = io.BytesIO(), target.suffix.lower().removeprefix(".")
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
            figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
            write_bytes(target, buffer.getvalue())
    return figure


def _bars(rows: Sequence[tuple[str, int, int]]) -> Any:
    count = max(1, len(rows))
    figure = new_figure(8.0, 1.2 + (0.19 if count <= _NAMES_UP_TO else 0.06) * count)
    axes = figure.subplots()
    at = range(len(rows))
    axes.barh(at, [before for _, before, _ in rows], height=0.8, color=_REMOVED, label="removed")
    axes.barh(at, [after for _, _, after in rows], height=0.8, color=_KEPT, label="remaining")
    axes.set_ylim(count - 0.4, -0.6)  # the first layer is at the top
    if count <= _NAMES_UP_TO:
        names = distinct_names([name for name, _, _ in rows], _NAME_LENGTH)
        axes.set_yticks(at, names, fontsize=8)
    else:
        axes.set_ylabel("Layer, in the order of the forward")
    axes.set_xlabel("Output channels")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9, reverse=True)
    return figure
