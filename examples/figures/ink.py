"""Colours, fonts and files that all figures share."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from dfpc_plugin.files import write_text

WIDTH = 5.4
"""Inches; narrow, so that text is still large enough on a phone."""
_FAMILIES = "'DejaVu Sans', Verdana, sans-serif"


@dataclass(frozen=True)
class Theme:
    """Colours on a light or dark page: Okabe and Ito's, which suit the common kinds of colour blindness.

    Attributes:
        name: "light" or "dark".
        ink: Text and outlines.
        soft: Secondary text.
        grid: Lines behind the data.
        paper: Background of text that crosses lines.
        series: Colours of data, in the order of their use.
    """

    name: str
    ink: str
    soft: str
    grid: str
    paper: str
    series: tuple[str, ...]


THEMES = (
    Theme("light", "#1F1F1F", "#5C5C5C", "#DDDDDD", "#FFFFFF",
          ("#0072B2", "#D55E00", "#009E73", "#B8578B", "#B87A00", "#2B8CC4")),
    Theme("dark", "#ECECEC", "#ABABAB", "#42454E", "#1E2129",
          ("#56B4E9", "#F0853C", "#2BC79B", "#E29BC3", "#E69F00", "#F0E442")),
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P")


@contextlib.contextmanager
def drawn(path: Path, theme: Theme, height: float, description: str, layout: str = "constrained") -> Iterator[Any]:
    """Yield a matplotlib figure and write it as SVG at the end, with `description` as its text alternative.

    The same drawing gives the same bytes. `height` is in inches; `layout` is "none" for axes with fixed positions.
    """
    settings = {
        "svg.hashsalt": "dfpc", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 10,
        "text.color": theme.ink, "axes.labelcolor": theme.ink, "axes.edgecolor": theme.soft, "xtick.color": theme.ink,
        "ytick.color": theme.ink, "axes.titlesize": 11, "legend.frameon": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), layout=layout)  # without pyplot: no window, no global state
        yield figure
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    write_text(path, _finished(buffer.getvalue(), description))


def _finished(svg: str, description: str) -> str:
    """Use fonts that other machines have, and add the text alternative."""
    svg = svg.replace("'DejaVu Sans'", _FAMILIES)
    head, tag, rest = svg.partition("<svg ")
    opening, end, content = rest.partition(">")
    label = escape(description, quote=True)
    lines = f'{head}{tag}role="img" aria-label="{label}" {opening}{end}\n <title>{escape(description)}</title>{content}'
    return "\n".join(line.rstrip() for line in lines.splitlines()) + "\n"


def plain(figure: Any) -> Any:
    """Return axes without scales over the whole figure, in inches from its lower left corner."""
    axes = figure.add_axes((0, 0, 1, 1))
    width, height = figure.get_size_inches()
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return axes


def ruled(axes: Any, theme: Theme) -> None:
    """Draw a grid behind the data."""
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.patch.set_alpha(0)
