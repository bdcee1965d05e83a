"""What came of pruning a model."""

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

__all__ = ["CouplingCut", "Figures", "ProtectedCoupling", "PruneResult"]


@dataclass(frozen=True)
class Figures:
    """What a model costs.

    Attributes:
        channels: Units of the couplings that were ranked.
        macs: MACs of one forward of the example inputs, in layers and products of matrices.
        parameters: Entries of its parameters.
        latency: Measured time of one forward; None where no one asked for it.
        score: What the user's `evaluate` returned; None where there is none.
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
        after: Its units now.
        scores: The saliency of every unit as it was before, in the order of the units; none where it was computed anew
            after every round.
        gone: The units that went.
    """

    name: str
    layers: tuple[str, ...]
    before: int
    after: int
    scores: tuple[float, ...] = ()
    gone: tuple[int, ...] = ()

    def __repr__(self) -> str:
        """Its sizes in place of its scores."""
        layers = "" if len(self.layers) < 2 else f", {len(self.layers)} layers"
        return f"CouplingCut({self.name!r}{layers}, {self.before} -> {self.after})"


@dataclass(frozen=True)
class ProtectedCoupling:
    """A coupling that was not pruned.

    Attributes:
        name: The first layer that writes it.
        layers: Every layer that writes it.
        width: Its channels.
        reason: Why it stays.
    """

    name: str
    layers: tuple[str, ...]
    width: int
    reason: str

    def __repr__(self) -> str:
        """Without the names of all layers."""
        return f"ProtectedCoupling({self.name!r}, width={self.width}, reason={self.reason!r})"


@dataclass(frozen=True, repr=False)
class PruneResult(HoldsModel, Shown):
    """A pruned model, and how it came about. `print` it for tables; a notebook shows it as a report.

    Attributes:
        model: The pruned model.
        target: What was asked for.
        reached: The same in figures, by the names of the budgets, counted or measured on the pruned model itself.
        before: The model as it was.
        after: The model as it is.
        couplings: What each coupling has lost, in the order of the model's parameters; those that could lose nothing are
            left out.
        removed: Indices of the outputs that went, as they were numbered before, by layer; of a layer over several
            matrices, by the path of the matrix. `replay` does the same to another copy of the model.
        seconds: What each phase took.
        notes: What a user should know and did not ask for.
        repair: What the repair has done; None where there was none.
        protected: Couplings that layers produce and that were not pruned, each with its reason: they must stay, have no
            score, or were left out by the settings.
        widths: What `layers` returns.
        criterion: What channels were ranked by.
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

        `print` the table, or take it on with `to_dicts()`, `to_csv()` and `plot()`.
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
        """How many times faster the pruned model is, round by round of one measurement; None if not measured."""
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

    def __str__(self) -> str:
        """The tables of what was asked for and reached, and of the layers that lost most."""
        return result_table(self)

    def __repr__(self) -> str:
        """The figures before and after, in a few lines."""
        return result_summary(self)


def _figures(figures: Figures) -> dict[str, Any]:
    """One model's figures, its latency in milliseconds."""
    content: dict[str, Any] = {
        "channels": figures.channels,
        "macs": figures.macs,
        "parameters": figures.parameters,
        "score": figures.score,
    }
    if figures.latency is not None:
        content["latency_ms"] = 1e3 * figures.latency.median
        content["latency_iqr_ms"] = 1e3 * figures.latency.iqr
        content["threads"] = figures.latency.threads
        content["runtime"] = figures.latency.runtime
    return content
