"""Figure of how one forward and one backward pass sum over all paths of a coupling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ink import WIDTH, Theme, drawn, plain
from matplotlib.patches import FancyBboxPatch

DESCRIPTION = (
    "How a coupling with two feed-in and two feed-out layers is scored. Forwards, ones go through the absolute weights of each "
    "feed-in layer, their sum through the transform, and each feed-out layer adds the sum of its absolute outputs to one total. "
    "Backwards, the gradient of the total comes back to where the feed-in layers wrote. Position by position, what was written "
    "times the gradient, added up over a channel, is its score: four paths by one forward and one backward pass."
)
_HEIGHT = 6.0
_LEFT, _RIGHT, _MIDDLE = 1.42, WIDTH - 1.42, WIDTH / 2
_ONES, _IN, _SUM, _OUT, _TOTAL, _SCORE = 5.05, 4.3, 3.3, 2.3, 1.45, 0.46


def draw(path: Path, theme: Theme) -> None:
    """Draw the network of one coupling downwards, and its gradients upwards."""
    with drawn(path, theme, _HEIGHT, DESCRIPTION, "none") as figure:
        axes = plain(figure)
        forward, backward = theme.series[0], theme.series[1]
        axes.text(0.15, _HEIGHT - 0.28, "one forward pass", color=forward, weight="bold", size=11)
        axes.text(WIDTH - 0.15, _HEIGHT - 0.28, "one backward pass", color=backward, weight="bold", size=11, ha="right")
        axes.text(0.15, _HEIGHT - 0.52, "of ones, through |weights|", color=theme.soft, size=9)
        axes.text(WIDTH - 0.15, _HEIGHT - 0.52, "of the total's gradient", color=theme.soft, size=9, ha="right")
        _boxes(axes, theme)
        for x, name in ((_LEFT, "1"), (_RIGHT, "2")):
            side = -1 if x < _MIDDLE else 1
            _arrow(axes, (x, _ONES - 0.17), (x, _IN + 0.25), forward)
            _pair(axes, theme, (x, _IN - 0.25), (_MIDDLE + side * 0.42, _SUM + 0.27))
            _pair(axes, theme, (_MIDDLE + side * 0.42, _SUM - 0.27), (x, _OUT + 0.25))
            _pair(axes, theme, (x, _OUT - 0.25), (_MIDDLE + side * 0.42, _TOTAL + 0.19))
            outer = x + side * 0.36
            axes.text(outer, _IN - 0.45, f"$u_{{a{name}}}$", color=forward, ha="center", size=12)
            axes.text(outer + side * 0.46, _IN - 0.45, f"$v_{{a{name}}}$", color=backward, ha="center", size=12)


def _boxes(axes: Any, theme: Theme) -> None:
    for x, name in ((_LEFT, "1"), (_RIGHT, "2")):
        axes.text(x, _ONES, "1 1 1 1", ha="center", va="center", color=theme.series[0], size=10.5)
        _box(axes, theme, x, _IN, 1.75, 0.5, f"feed-in a{name}", f"$|M_{{a{name}}}|$")
        _box(axes, theme, x, _OUT, 1.75, 0.5, f"feed-out b{name}", f"$|M_{{b{name}}}|$")
    _box(axes, theme, _MIDDLE, _SUM, 2.5, 0.54, "transform", "BatchNorm, +, ReLU:  $|F|$")
    _box(axes, theme, _MIDDLE, _TOTAL, 2.5, 0.38, "total: sum of all outputs", "")
    axes.add_patch(FancyBboxPatch(
        (0.2, _SCORE - 0.34), WIDTH - 0.4, 0.68, boxstyle="round,pad=0,rounding_size=0.07", facecolor="none",
        edgecolor=theme.series[2], linewidth=1.6,
    ))  # fmt: skip
    axes.text(
        _MIDDLE, _SCORE + 0.14, "score of channel c  =  sum of  u · v", ha="center", va="center", size=11, weight="bold"
    )
    axes.text(_MIDDLE, _SCORE - 0.14, "over its positions, in a1 and a2: all four paths a → b", ha="center", va="center", size=9.5,
              color=theme.soft)  # fmt: skip


def _box(axes: Any, theme: Theme, x: float, y: float, width: float, height: float, title: str, formula: str) -> None:
    axes.add_patch(FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.07", facecolor="none",
        edgecolor=theme.ink, linewidth=1.2,
    ))  # fmt: skip
    axes.text(x, y + (0.11 if formula else 0), title, ha="center", va="center", size=10)
    if formula:
        axes.text(x, y - 0.12, formula, ha="center", va="center", size=9.5, color=theme.soft)


def _pair(axes: Any, theme: Theme, above: tuple[float, float], below: tuple[float, float]) -> None:
    """Draw an arrow down for values, and one up beside it for gradients."""
    shift = 0.13
    _arrow(axes, (above[0] - shift, above[1]), (below[0] - shift, below[1]), theme.series[0])
    _arrow(axes, (below[0] + shift, below[1]), (above[0] + shift, above[1]), theme.series[1], dashed=True)


def _arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str, *, dashed: bool = False
) -> None:
    axes.annotate("", end, start, arrowprops={
        "arrowstyle": "-|>", "color": colour, "lw": 1.6, "linestyle": "--" if dashed else "-", "shrinkA": 1, "shrinkB": 1,
    })  # fmt: skip
