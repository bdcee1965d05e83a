"""Figure of the saliency of a network's couplings, and of the share pruned by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ink import MARKERS, Theme, drawn, ruled

DATA = Path(__file__).parent / "data" / "saliency.json"
_LEAST = 1e-2
_KINDS = ("inside a block", "residual stream")


def draw(path: Path, theme: Theme) -> None:
    """Draw the range of scores above, and the share of pruned channels below."""
    content = json.loads(DATA.read_text(encoding="utf-8"))
    with drawn(path, theme, 5.2, describe(content)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for number, kind in enumerate(_KINDS):
            own = [
                (position, coupling) for position, coupling in enumerate(content["couplings"], 1)
                if (len(coupling["layers"]) > 1) == bool(number)
            ]  # fmt: skip
            _ranges(upper, own, theme.series[number], MARKERS[number], kind)
            for position, coupling in own:
                lower.bar(position, 100 * coupling["gone"], color=theme.series[number], width=0.75)
        for axes in (upper, lower):
            ruled(axes, theme)
        upper.set_yscale("log")
        upper.set_ylim(bottom=_LEAST)  # tiny scores would take most of the scale
        upper.set_ylabel("saliency")
        upper.set_title(f"What every coupling of {content['title']} is worth")
        figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        lower.set_ylabel("channels pruned (%)")
        lower.set_ylim(0, 100)
        lower.set_xticks([1, *range(5, len(content["couplings"]) + 1, 5)])
        lower.set_xlabel("couplings, from the input to the output")
        lower.set_title(f"share pruned, with MACs reduced {content['saved']}", size=10)


def describe(content: dict[str, Any]) -> str:
    """The text alternative of the figure."""
    return (
        f"Above: the saliency of the channels of {len(content['couplings'])} couplings of {content['title']}, in the order of the "
        f"forward pass, with its range, middle half and median. Below: the share of their channels that goes for "
        f"{content['saved']} fewer MACs. Residual streams score highest and are pruned least."
    )


def _ranges(axes: Any, couplings: list[tuple[int, dict[str, Any]]], colour: str, marker: str, label: str) -> None:
    """Thin line: all channels; thick line: the middle half; marker: the median."""
    at = [position for position, _ in couplings]
    shown = [[max(mark, _LEAST) for mark in coupling["quantiles"]] for _, coupling in couplings]
    low, lower, middle, upper, high = zip(*shown, strict=True)
    axes.vlines(at, low, high, color=colour, linewidth=1)
    axes.vlines(at, lower, upper, color=colour, linewidth=4, alpha=0.5)
    axes.plot(at, middle, linestyle="", marker=marker, markersize=5, color=colour, label=label)
