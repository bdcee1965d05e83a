"""Cells gathered over repairs and seeds, as tables and plots show them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dfpc_plugin.comparing.cells import CellResult, Metric
from dfpc_plugin.comparing.plan import label_of_name

__all__ = ["Row", "Spread", "leaders", "repairs_of", "rows_of"]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the deviation of one value is 0."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Summarise the values that are known; None where there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else 0.0)


@dataclass(frozen=True)
class Row:
    """The cells of one criterion at one budget: by repair, one for each seed."""

    budget: str
    criterion: str
    cells: Mapping[str, tuple[CellResult, ...]]

    @property
    def name(self) -> str:
        """The criterion, as plots call it."""
        own = next((cell.label for cells in self.cells.values() for cell in cells), "")
        return own or label_of_name(self.criterion)

    @property
    def label(self) -> str:
        """The criterion, as tables call it, with the number of seeds where there are several."""
        seeds = max(len(cells) for cells in self.cells.values())
        return self.name + (f" x{seeds}" if seeds > 1 else "")

    def values(self, repair: str) -> Spread | None:
        """The figure after a repair, over seeds; None where all cells failed."""
        return Spread.of(cell.value for cell in self.cells.get(repair, ()))

    def cost(self, name: str, repair: str) -> Spread | None:
        """`macs`, `params` or `speedup` of the models with a repair, over seeds."""
        return Spread.of(getattr(cell, name) for cell in self.cells.get(repair, ()))

    def costs(self, name: str) -> tuple[float, ...]:
        """The same for each repair that has any: a criterion that goes with the repair chooses other channels for each."""
        found = (self.cost(name, repair) for repair in self.cells)
        return tuple(cost.mean for cost in found if cost is not None)


def rows_of(cells: Iterable[CellResult]) -> tuple[Row, ...]:
    """Return one row for each budget and criterion."""
    found: dict[tuple[str, str], dict[str, list[CellResult]]] = {}
    for result in cells:
        cell = result.cell
        found.setdefault((cell.budget, cell.criterion), {}).setdefault(cell.repair, []).append(result)
    return tuple(
        Row(budget, criterion, {repair: tuple(results) for repair, results in by_repair.items()})
        for (budget, criterion), by_repair in found.items()
    )


def repairs_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Every repair of some rows, in their order."""
    return tuple(dict.fromkeys(repair for row in rows for repair in row.cells))


def leaders(rows: Sequence[Row], budget: str, repair: str, metric: Metric) -> tuple[str, ...]:
    """Return the criteria with the best mean at a budget after a repair, and those within one standard error of it."""
    own = {row.criterion: row for row in rows if row.budget == budget}
    sign = 1 if metric.higher_is_better else -1
    means = {name: sign * found.mean for name, row in own.items() if (found := row.values(repair)) is not None}
    if not means:
        return ()
    best = max(means, key=lambda name: means[name])
    error = max(cell.standard_error or 0.0 for cell in own[best].cells[repair])
    return tuple(name for name, mean in means.items() if mean >= means[best] - error)
