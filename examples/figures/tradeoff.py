"""Figures of accuracy against MACs, and against latency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ink import MARKERS, Theme, drawn, ruled

MACS, TIME = (Path(__file__).parent / "data" / f"accuracy-{kind}.json" for kind in ("macs", "latency"))
_STYLES = {
    "anticipating": ("DFPC", 0), "dfpc": ("DFPC", 0), "magnitude": ("magnitude", 1), "fpgm": ("FPGM", 2), "lamp": ("LAMP", 3),
    "bnscale": ("BN scale", 4),
}  # fmt: skip


def draw_macs(path: Path, theme: Theme) -> None:
    content = load(MACS)
    text = f"{_opening(content)} MACs. {_findings(content)}"
    with drawn(path, theme, 4.6, text) as figure:
        axes = _frame(figure, theme, content, "MACs, reduction factor")
        for own in _series(content):
            at = [1.0, *(content["before"]["macs"] / point["macs"] for point in own)]
            _line(axes, theme, content, own, at)
        _finish(figure, axes)


def draw_latency(path: Path, theme: Theme) -> None:
    """Draw accuracy against speed-up, with the middle half of the measured ratios."""
    content = load(TIME)
    text = f"{_opening(content)} measured time, {content['latency']['batch_size']} images at a time on one thread. {_findings(content)}"
    with drawn(path, theme, 4.6, text) as figure:
        threads = "thread" if content["latency"]["threads"] == 1 else "threads"
        what = (
            f"time, times faster ({content['latency']['batch_size']} images, {content['latency']['threads']} {threads})"
        )
        axes = _frame(figure, theme, content, what)
        for own in _series(content):
            at = [1.0, *(point["times_faster"] for point in own)]
            _line(axes, theme, content, own, at)
            for point in own:
                axes.hlines(
                    point["top1"],
                    *point["times_faster_quartiles"],
                    color=theme.series[_STYLES[point["criterion"]][1]],
                    lw=1,
                )
        _finish(figure, axes)


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _series(content: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Points by criterion, repaired ones first."""
    runs = dict.fromkeys((point["criterion"], point["repair"]) for point in content["points"])
    return [
        sorted(
            (p for p in content["points"] if (p["criterion"], p["repair"]) == run), key=lambda point: point["speedup"]
        )
        for run in sorted(runs, key=lambda run: run[1] == "bare")
    ]


def _label(point: dict[str, Any]) -> str:
    return _STYLES[point["criterion"]][0] + (", repaired without data" if point["repair"] != "bare" else "")


def _frame(figure: Any, theme: Theme, content: dict[str, Any], across: str) -> Any:
    axes = figure.subplots()
    ruled(axes, theme)
    axes.axhline(content["before"]["top1"], color=theme.soft, linewidth=1, linestyle=":")
    axes.set_ylim(0, 100)
    axes.set_ylabel(f"accuracy on {content['test_images']} test images (%)")
    axes.set_xlabel(across)
    return axes


def _line(axes: Any, theme: Theme, content: dict[str, Any], own: list[dict[str, Any]], at: list[float]) -> None:
    """Draw one criterion, starting at the unpruned network: solid if repaired, dashed if not."""
    repaired, number = own[0]["repair"] != "bare", _STYLES[own[0]["criterion"]][1]
    axes.plot(
        at, [content["before"]["top1"], *(point["top1"] for point in own)], color=theme.series[number], marker=MARKERS[number],
        markersize=6.5, linewidth=2.6 if repaired else 1.4, linestyle="-" if repaired else "--", label=_label(own[0]),
        markerfacecolor=theme.series[number] if repaired else theme.paper, zorder=3 if repaired else 2,
    )  # fmt: skip


def _finish(figure: Any, axes: Any) -> None:
    axes.set_title("ResNet-56 on CIFAR-10, pruned and not tuned")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _opening(content: dict[str, Any]) -> str:
    return f"Accuracy of a pruned ResNet-56 on CIFAR-10, {content['before']['top1']:.1f} % before, against"


def _findings(content: dict[str, Any]) -> str:
    """The end of every line, in words."""
    ends = [f"{_label(own[-1])} {own[-1]['top1']:.1f} %" for own in _series(content)]
    return f"At {_series(content)[0][-1]['speedup']:.3g}x fewer MACs: {', '.join(ends)}."
