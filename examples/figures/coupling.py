"""Figure of a coupling: one channel of a residual stream, with its producers and consumers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from ink import WIDTH, Theme, drawn, plain
from matplotlib.patches import FancyBboxPatch, Rectangle

import dfpc_plugin as dfpc

MODEL, NAME, CHANNEL = "resnet18", "layer2.0.conv2", 7
_STEP, _TOP, _BOTTOM = 0.74, 1.15, 0.95
_STREAM, _LANES, _LANE = WIDTH / 2, 9, 0.065
_CELLS = 7
"""Numbers of lanes of the stream and of cells of a matrix in the drawing, instead of all."""


def found() -> tuple[dfpc.DataFlowCoupling, list[str]]:
    """Find the coupling, and its producers and consumers in the order of the model."""
    model = torchvision.models.get_model(MODEL, weights=None)
    couplings = dfpc.find_couplings(model, torch.ones(1, 3, 224, 224))
    coupling = next(coupling for coupling in couplings if NAME in coupling.feed_in)
    layers = {*coupling.feed_in, *coupling.feed_out}
    return coupling, [name for name, _ in model.named_modules() if name in layers]


def draw(path: Path, theme: Theme) -> None:
    """Draw producers on the left, consumers on the right, and the stream between them."""
    coupling, layers = found()
    height = _TOP + _STEP * len(layers) + _BOTTOM
    with drawn(path, theme, height, describe(coupling), "none") as figure:
        axes = plain(figure)
        _heading(axes, theme, coupling, height)
        top = height - _TOP
        _stream(axes, theme, top, top - _STEP * len(layers))
        for number, layer in enumerate(layers):
            _layer(axes, theme, layer, layer in coupling.feed_in, top - _STEP * (number + 0.5))
        _foot(axes, theme, coupling)


def describe(coupling: dfpc.DataFlowCoupling) -> str:
    """The text alternative of the figure."""
    return (
        f"Channel {CHANNEL} of the second residual stage of ResNet-18. It is row {CHANNEL} of the layers that write the stream "
        f"({', '.join(coupling.feed_in)}), and column {CHANNEL} of those that read it ({', '.join(coupling.feed_out)})."
    )


def _heading(axes: Any, theme: Theme, coupling: dfpc.DataFlowCoupling, height: float) -> None:
    axes.text(
        _STREAM, height - 0.24, f"One channel of {coupling.channels} in a stage of ResNet-18", ha="center", size=11.5
    )
    writers, readers = len(coupling.feed_in), len(coupling.feed_out)
    for x, text, colour in (
        (0.2, f"{writers} layers write it", theme.series[0]), (WIDTH - 0.2, f"{readers} layers read it", theme.series[2]),
    ):  # fmt: skip
        axes.text(x, height - 0.62, text, ha="left" if x < _STREAM else "right", color=colour, weight="bold")
    axes.text(0.2, height - 0.84, f"row {CHANNEL} goes", size=9, color=theme.soft)
    axes.text(WIDTH - 0.2, height - 0.84, f"column {CHANNEL} goes", size=9, color=theme.soft, ha="right")
    axes.text(_STREAM, height - 0.84, "the stream", size=9, color=theme.soft, ha="center")


def _stream(axes: Any, theme: Theme, top: float, bottom: float) -> None:
    """Draw lanes, one per channel, with one highlighted."""
    for lane in range(_LANES):
        x = _STREAM + (lane - _LANES // 2) * _LANE
        own = lane == _LANES // 2
        axes.plot([x, x], [bottom, top], color=theme.series[1] if own else theme.grid, linewidth=4 if own else 2,
                  solid_capstyle="butt", zorder=2 if own else 1)  # fmt: skip
    axes.annotate(
        "",
        (_STREAM, bottom - 0.12),
        (_STREAM, bottom),
        arrowprops={"arrowstyle": "-|>", "color": theme.series[1], "lw": 2},
    )


def _layer(axes: Any, theme: Theme, name: str, writes: bool, y: float) -> None:
    """Draw a layer as its matrix, with an arrow to or from the stream."""
    colour = theme.series[0] if writes else theme.series[2]
    left = 0.12 if writes else WIDTH - 0.12 - 1.86
    axes.add_patch(FancyBboxPatch(
        (left, y - 0.28), 1.86, 0.56, boxstyle="round,pad=0,rounding_size=0.07", facecolor="none", edgecolor=colour, linewidth=1.4
    ))  # fmt: skip
    matrix = left + (1.36 if writes else 0.1)
    _matrix(axes, theme, matrix, y, writes)
    stage, _, rest = name.partition(".")
    x = left + (0.1 if writes else 0.62)
    axes.text(x, y + 0.035, f"{stage}.{rest.split('.')[0]}", va="bottom", size=8.5, color=theme.soft)
    axes.text(x, y - 0.02, ".".join(rest.split(".")[1:]), va="top", size=10)
    inner, outer = left + 1.86, _STREAM - 0.02
    start, end = ((inner, y), (outer, y)) if writes else ((_STREAM + 0.02, y), (left, y))
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": theme.series[1], "lw": 1.8, "shrinkA": 0, "shrinkB": 0},
                  zorder=4)  # fmt: skip


def _matrix(axes: Any, theme: Theme, x: float, y: float, row: bool) -> None:
    """Draw a few cells of a weight; rows are outputs and columns inputs."""
    size = 0.4 / _CELLS
    for down in range(_CELLS):
        for across in range(_CELLS):
            own = (down if row else across) == _CELLS // 2
            axes.add_patch(Rectangle(
                (x + across * size, y + 0.2 - (down + 1) * size), size * 0.86, size * 0.86,
                facecolor=theme.series[1] if own else theme.grid, edgecolor="none",
            ))  # fmt: skip


def _foot(axes: Any, theme: Theme, coupling: dfpc.DataFlowCoupling) -> None:
    norms = {piece.tensor.rpartition(".")[0] for piece in coupling.slices if piece.role == "transform"}
    axes.text(_STREAM, 0.42, f"and entry {CHANNEL} of the {len(norms)} BatchNorms in between:", ha="center", size=9.5)
    axes.text(
        _STREAM,
        0.18,
        "from all of them together, or from none.",
        ha="center",
        size=9.5,
        color=theme.series[1],
        weight="bold",
    )
