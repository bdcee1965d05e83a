"""The result of pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from dfpc_plugin.display import TERMINAL_WIDTH, Shown, as_text, counted, number_columns, percent, plain_table, took
from dfpc_plugin.latency import Latency, speedup_note
from dfpc_plugin.layers import LayerTable
from dfpc_plugin.plain_data import to_plain
from dfpc_plugin.repairing import RepairResult
from dfpc_plugin.runtimes import RUNTIMES
from dfpc_plugin.selection import Target, meets, stated
from dfpc_plugin.wrappers import HoldsModel


@dataclass(frozen=True)
class Figures:
    """Size and speed of a model.

    Attributes:
        channels: Units of the couplings that were ranked.
        macs: MACs of one forward of the example inputs, in layers and matrix products.
        parameters: Number of parameters.
        latency: Measured time of one forward, or None.
        score: The result of the user's `evaluate`, or None.
    """

    channels: int
    macs: int
    parameters: int
    latency: Latency | None = None
    score: float | None = None


@dataclass(frozen=True)
class CouplingCut:
    """What one coupling has lost.

    Attributes:
        name: The first layer that writes it.
        layers: Every layer that writes it.
        before: Its units before.
        after: Its remaining units.
        scores: The saliency of every unit before pruning; empty if it was recomputed after every round.
        gone: The removed units.
    """

    name: str
    layers: tuple[str, ...]
    before: int
    after: int
    scores: tuple[float, ...] = ()
    gone: tuple[int, ...] = ()

    def __repr__(self) -> str:
        """Show sizes instead of scores."""
        layers = "" if len(self.layers) < 2 else f", {len(self.layers)} layers"
        return f"CouplingCut({self.name!r}{layers}, {self.before} -> {self.after})"


@dataclass(frozen=True)
class ProtectedCoupling:
    """A coupling that was not pruned.

    Attributes:
        name: The first layer that writes it.
        layers: Every layer that writes it.
        width: Its number of channels.
        reason: Why it was not pruned.
    """

    name: str
    layers: tuple[str, ...]
    width: int
    reason: str

    def __repr__(self) -> str:
        """Leave out the names of the layers."""
        return f"ProtectedCoupling({self.name!r}, width={self.width}, reason={self.reason!r})"


@dataclass(frozen=True, repr=False)
class PruneResult(HoldsModel, Shown):
    """A pruned model and the record of pruning. `print` it for tables; a notebook shows it as a report.

    Attributes:
        model: The pruned model.
        target: The target.
        reached: The reached value of every budget by name, counted or measured on the pruned model itself.
        before: Figures of the unpruned model.
        after: Figures of the pruned model.
        couplings: What each ranked coupling has lost, in the order of the model's parameters.
        removed: Indices of the removed outputs, as numbered before, by layer; of a layer with several matrices, by the path of
            the matrix. `replay` removes the same from another copy of the model.
        seconds: Time of each phase.
        notes: Warnings and hints.
        repair: The result of the repair, or None.
        protected: Couplings that layers produce and that were not pruned, each with its reason: protected, without a score, or
            excluded by the settings.
        widths: What `layers` returns.
        criterion: The importance criterion.
    """

    model: nn.Module
    target: Target
    reached: Mapping[str, float]
    before: Figures
    after: Figures
    couplings: tuple[CouplingCut, ...]
    removed: Mapping[str, tuple[int, ...]]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    repair: RepairResult | None = None
    protected: tuple[ProtectedCoupling, ...] = ()
    widths: LayerTable = field(default_factory=LayerTable)
    criterion: str = ""

    def layers(self) -> LayerTable:
        """Return the layers with their widths before and after, in the order of the forward.

        `print` the table, or convert it with `to_dicts()`, `to_csv()` and `plot()`.
        """
        return self.widths

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the channels that remain in every layer, and return the matplotlib figure.

        Args:
            path: Also write it to this file: .png, .svg or .pdf.

        Raises:
            MissingDependencyError: matplotlib is not installed.
            OutputError: The file cannot be written.
        """
        return self.widths.plot(path)

    @property
    def speedup(self) -> float | None:
        """The speed-up, measured in turns; None if not measured."""
        if self.before.latency is None or self.after.latency is None:
            return None
        return self.after.latency.speedup_over(self.before.latency)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as dicts, lists, numbers and strings."""
        return {
            "target": {name: value for name, value in to_plain(self.target).items() if value is not None},
            "reached": dict(self.reached),
            "before": _figures(self.before),
            "after": _figures(self.after),
            "speedup": self.speedup,
            **{
                name: to_plain(getattr(self, name))
                for name in ("couplings", "protected", "removed", "seconds", "notes")
            },
            "repair": None if self.repair is None else self.repair.to_json(),
            "layers": self.widths.to_json(),
            "criterion": self.criterion,
        }

    def text(self, width: int = TERMINAL_WIDTH, *, with_seconds: bool = True, **layers: Any) -> str:
        """Return figures before and after, layers that lost most, and the time of each phase, as text of `width` columns.

        `layers` are arguments of `LayerTable.short`: how many layers are shown, and what shows the others. With
        `with_seconds=False`, the time of each phase is left out.
        """
        return as_text(
            _asked(self),
            _figures_table(self),
            *(self.widths.short(**layers) if len(self.widths) else ()),
            _coupling_counts(self),
            *([took(self.seconds)] if with_seconds else []),
            *([] if self.repair is None else [self.repair.summary]),
            *_latency_notes(self),
            *self.notes,
            width=width,
        )

    def __str__(self) -> str:
        """The same for 80 columns."""
        return self.text()

    def __repr__(self) -> str:
        """Show the figures before and after, in a few lines."""
        rows = (f"  {name.strip()} {before} -> {after} {left}".rstrip() for name, before, after, left in _rows(self))
        repair = [] if self.repair is None else [f"  {self.repair.summary}"]
        return "\n".join([
            f"PruneResult of {type(self.model).__name__}. {_asked(self)}", *rows, f"  {_coupling_counts(self)}", *repair,
            "  print it for tables; layers() has the widths of all layers, notes what to know",
        ])  # fmt: skip


def _figures(figures: Figures) -> dict[str, Any]:
    content: dict[str, Any] = {name: getattr(figures, name) for name in ("channels", "macs", "parameters", "score")}
    latency = figures.latency
    if latency is not None:
        content |= {"latency_ms": 1e3 * latency.median, "latency_iqr_ms": 1e3 * latency.iqr}
        content |= {
            "threads": latency.threads,
            "runtime": latency.runtime,
            "shapes": [list(own) for own in latency.shapes],
        }
    return content


_LATENCY, _IQR = "latency (ms)", "  interquartile range"
_ROWS: tuple[tuple[str, Callable[[Figures], float | None], str], ...] = (
    ("channels", lambda figures: figures.channels, "{:,.0f}"),
    ("MACs", lambda figures: figures.macs, "{:,.0f}"),
    ("parameters", lambda figures: figures.parameters, "{:,.0f}"),
    (_LATENCY, lambda figures: None if figures.latency is None else 1e3 * figures.latency.median, "{:.2f}"),
    (_IQR, lambda figures: None if figures.latency is None else 1e3 * figures.latency.iqr, "{:.2f}"),
    ("score", lambda figures: figures.score, "{:.4g}"),
)
"""Name of a figure, how to read it, and its format."""


def _latency_notes(result: PruneResult) -> Iterator[str]:
    """What latency was measured with, and what to know of a speed-up that is not the ratio of the latencies above it."""
    before, after = result.before.latency, result.after.latency
    if before is not None and after is not None:
        yield f"Latency was measured in {RUNTIMES[after.runtime].title} ({after.conditions}), both models in turns."
        yield from filter(None, [speedup_note(before.median, after.median, after.speedup_over(before))])


def _asked(result: PruneResult) -> str:
    asked = {name: getattr(result.target, name) for name in result.reached}
    figures = ", ".join(f"{name}={stated(name, value, asked[name])}" for name, value in result.reached.items())
    verb = "reached" if all(meets(name, value, asked[name]) for name, value in result.reached.items()) else "came to"
    return f"Asked for {result.target}; {verb} {figures}"


def _in_runtime(result: PruneResult) -> str:
    """The runtime in which latency was measured; empty for PyTorch."""
    latency = result.after.latency
    return "" if latency is None or latency.runtime == "torch" else f" in {RUNTIMES[latency.runtime].title}"


def _rows(result: PruneResult) -> Iterator[tuple[str, str, str, str]]:
    """Every known figure, before and after, and the remaining share."""
    for name, read, form in _ROWS:
        before, after = read(result.before), read(result.after)
        if before is not None and after is not None:
            share = percent(after / before) if before and name != _IQR else ""
            where = _in_runtime(result) if name == _LATENCY else ""
            yield name + where, form.format(before), form.format(after), share
    if result.speedup is not None:
        yield "speed-up", "1x", f"{result.speedup:.2f}x", ""


def _figures_table(result: PruneResult) -> Table:
    table = plain_table("", *number_columns("before", "after", "remaining"))
    for row in _rows(result):
        table.add_row(*row)
    return table


def _coupling_counts(result: PruneResult) -> str:
    cut = sum(coupling.after < coupling.before for coupling in result.couplings)
    protected = f"; {len(result.protected)} more protected" if result.protected else ""
    return f"{cut} of {counted(len(result.couplings), 'coupling')} lost channels{protected}."
