"""What came of a sensitivity analysis: table, CSV, JSON and picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from dfpc_plugin.display import as_text, csv_text, number_columns, plain_table
from dfpc_plugin.display.figures import INK, drawn, new_figure
from dfpc_plugin.plain_data import to_plain

__all__ = ["CouplingSensitivity", "SensitivityResult"]

_NAME_LENGTH, _LOWEST = 28, 1e-6
_LABELS = {"predicted": "Predicted by the scores", "noise": "Measured on {}", "images": "Measured on {}"}


@dataclass(frozen=True)
class CouplingSensitivity:
    """Errors of the outputs when one coupling loses channels.

    Attributes:
        name: The first layer that produces it.
        layers: Every layer that produces it.
        channels: How many channels it has.
        macs: MACs of the layers that produce or consume it, as a share of the model's.
        removed: How many channels are removed at each share.
        errors: Relative squared errors of the outputs at each share, by what they come from: "predicted", "noise" and, where
            images were given, "images".
    """

    name: str
    layers: tuple[str, ...]
    channels: int
    macs: float
    removed: tuple[int, ...]
    errors: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class SensitivityResult:
    """Errors of the outputs by coupling and share. `print` it for a table.

    Attributes:
        shares: Shares of a coupling's channels that are removed.
        sources: What the errors come from, in words: "predicted", "noise" and, where images were given, "images".
        couplings: One entry for each coupling that can be pruned.
    """

    shares: tuple[float, ...]
    sources: Mapping[str, str]
    couplings: tuple[CouplingSensitivity, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, numbers and strings."""
        return dict(to_plain(self))

    def to_csv(self) -> str:
        """Return one row for each coupling and share; errors are relative to the variance of the outputs."""
        rows = (
            [coupling.name, coupling.channels, coupling.macs, share, coupling.removed[position]]
            + [coupling.errors[kind][position] for kind in self.sources]
            for coupling in self.couplings
            for position, share in enumerate(self.shares)
        )
        return csv_text(["coupling", "channels", "macs", "share", "removed", *self.sources], rows)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw and return a matplotlib figure of errors as colours: couplings downwards, shares to the right.

        Args:
            path: Also write a PNG, SVG or PDF file, by its ending.

        Raises:
            OutputError: The file's ending is another one, or it cannot be written.
            MissingDependencyError: matplotlib is not installed.
        """
        return drawn(self._drawn, path)

    def text(self, width: int = 80) -> str:
        """Return the table for a terminal of so many columns."""
        title = "Error of the outputs in % of their variance, when the coupling loses that share of its channels."
        sources = (f"{kind}: {source}." for kind, source in self.sources.items())
        return as_text(self._table(), title, *sources, width=width)

    def __str__(self) -> str:
        """The table, 80 columns wide."""
        return self.text()

    def _table(self) -> Table:
        first, shares = Column("Coupling", overflow="fold", min_width=12), (f"{share:.4g}" for share in self.shares)
        table = plain_table(
            first, *number_columns("Channels", "MACs"), Column("Error", no_wrap=True), *number_columns(*shares)
        )
        for coupling in self.couplings:
            about = (Text(coupling.name), str(coupling.channels), f"{coupling.macs:.1%}")
            for kind, values in coupling.errors.items():
                table.add_row(*about, kind, *map(_percent, values))
                about = (Text(""), "", "")
        return table

    def _drawn(self) -> Any:
        """The figure."""
        height = min(24.0, max(3.6, 1.8 + 0.2 * len(self.couplings)))
        figure = new_figure(2.8 + 2.4 * len(self.sources), height)
        panels = figure.subplots(1, len(self.sources), sharey=True, squeeze=False)[0]
        for panel, (kind, source) in zip(panels, self.sources.items(), strict=True):
            values = [[max(100 * value, 100 * _LOWEST) for value in own.errors[kind]] for own in self.couplings]
            drawn = panel.imshow(values, norm="log", aspect="auto", cmap="viridis_r", vmin=1e-2, vmax=1e2)
            panel.set_title(_LABELS[kind].format(source), fontsize=9, color=INK)
            panel.set_xticks(range(len(self.shares)), [f"{share:.4g}" for share in self.shares])
            panel.set_xlabel("Share removed")
        names = [_short(coupling.name) for coupling in self.couplings]
        panels[0].set_yticks(range(len(names)), names, fontsize=7)
        bar = figure.colorbar(drawn, ax=list(panels), extend="both")
        bar.set_label("Error of the outputs (%)")
        return figure


def _percent(value: float) -> str:
    """A share in per cent, with two digits at least."""
    if value >= 1e4:
        return "> 1000000"
    return f"{100 * value:.0f}" if value >= 1 else f"{100 * value:.2g}"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else "…" + name[1 - _NAME_LENGTH :]
