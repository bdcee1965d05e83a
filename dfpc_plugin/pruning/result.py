"""The result of pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from dfpc_plugin.display import Shown
from dfpc_plugin.latency import Latency
from dfpc_plugin.layers import LayerTable
from dfpc_plugin.plain_data import to_plain
from dfpc_plugin.pruning.table import result_summary, result_table
from dfpc_plugin.repairing import RepairResult
from dfpc_plugin.selection import Target
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

    def text(self, width: int = 80, **layers: Any) -> str:
        """Return the target, what was reached, and the layers that lost most, as tables of `width` columns.

        `layers` are arguments of `LayerTable.short`: how many layers are shown, and what shows the others. With
        `with_seconds=False`, the time of each phase is left out.
        """
        return result_table(self, width, **layers)

    def __str__(self) -> str:
        """The same for 80 columns."""
        return self.text()

    def __repr__(self) -> str:
        """Show the figures before and after, in a few lines."""
        return result_summary(self)


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
