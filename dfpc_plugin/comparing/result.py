"""What came of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dfpc_plugin.comparing.cells import METRICS, CellResult, CompareError, Metric, Unpruned, as_lines, read_lines
from dfpc_plugin.comparing.plot import draw_comparison
from dfpc_plugin.comparing.table import Grid, Row, leaders, rows_of
from dfpc_plugin.display import TERMINAL_WIDTH, ShownAsText, csv_text
from dfpc_plugin.display.figures import drawn
from dfpc_plugin.errors import system_reason

_COLUMNS = ("criterion", "budget", "repair", "seed", "macs", "params", "speedup")


@dataclass(frozen=True, repr=False)
class CompareResult(ShownAsText):
    """Every cell of a comparison. `print` it for a table.

    Attributes:
        metric: What the figure of a cell is.
        source: What it was measured on, in words.
        unpruned: The figures of the unpruned model.
        cells: The cells, budget by budget.
        experiment: What the cells have in common, as it is stored.
        reused: How many of the cells an earlier call had finished.
    """

    metric: Metric
    source: str
    unpruned: Unpruned
    cells: tuple[CellResult, ...]
    experiment: Mapping[str, Any] = field(default_factory=dict)
    reused: int = field(default=0, compare=False)

    @classmethod
    def read(cls, path: str | Path) -> CompareResult:
        """Read a file that `compare(save_to=...)` or `dfpc compare --json` has written, with all cells that are in it.

        Raises:
            CompareError: It cannot be read, or holds something else.
        """
        place = Path(path)
        try:
            text = place.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CompareError(
                f"Cannot read '{place}': {system_reason(error)}; give the file that compare(save_to=...) has written."
            ) from error
        whole = text[: text.rfind("\n") + 1] or text  # without a last line that was cut off
        experiment, unpruned, cells = read_lines(whole, place, "give a file that compare has written")
        return cls(METRICS[experiment["metric"]], experiment["source"], unpruned, tuple(cells), experiment)

    def __add__(self, other: CompareResult) -> CompareResult:
        """Put the cells of two comparisons of one model into one table, such as those of some criteria with more seeds.

        Raises:
            CompareError: They are about different models, or measured by different means.
        """
        if (self.experiment, self.unpruned) != (other.experiment, other.unpruned):
            raise CompareError(
                "These comparisons are of different models, or measured on different data; compare again."
            )
        cells = {result.cell: result for result in (*self.cells, *other.cells)}
        return replace(self, cells=tuple(cells.values()), reused=0)

    def rows(self) -> tuple[Row, ...]:
        """Return one row for each budget and criterion, over repairs and seeds."""
        return rows_of(self.cells)

    def leaders(self, budget: str, repair: str) -> tuple[str, ...]:
        """Return the criteria with the best mean at a budget after a repair, and those within one standard error of it."""
        return leaders(self.rows(), budget, repair, self.metric)

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, numbers and strings."""
        return {
            "experiment": {**self.experiment, "metric": self.metric.name, "source": self.source},
            "unpruned": asdict(self.unpruned),
            "cells": [cell.to_json(self.metric.name) for cell in self.cells],
        }

    def to_json_lines(self) -> str:
        """Return the comparison as `save_to` stores it: a line about all cells, then one for each."""
        return as_lines(self.to_json()["experiment"], self.unpruned, self.cells)

    def to_csv(self) -> str:
        """Return one row for each cell; shares, such as accuracy, MACs and parameters, are between 0 and 1."""
        columns = (*_COLUMNS, self.metric.name, "standard_error", "seconds", "error")
        return csv_text(columns, ([row.get(name, "") for name in columns] for row in self.to_json()["cells"]))

    def to_markdown(self) -> str:
        """Return a table for each budget: criteria by repairs."""
        return self._grid.markdown()

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw and return a matplotlib figure over the share of MACs that remains, one panel for each repair.

        Args:
            path: Also write a PNG, SVG or PDF file, by its ending.

        Raises:
            OutputError: The file's ending is another one, or it cannot be written.
            MissingDependencyError: matplotlib is not installed.
        """
        return drawn(lambda: draw_comparison(self.rows(), self.metric, self.source, self.unpruned), path)

    def text(self, width: int = TERMINAL_WIDTH) -> str:
        """Return the table for a terminal of so many columns; a narrow one gets fewer columns of the table."""
        return self._grid.text(width)

    def __repr__(self) -> str:
        """Say what was compared."""
        return f"CompareResult of {len(self.cells)} cells: {self.metric.label} on {self.source}; print it for a table."

    @property
    def _grid(self) -> Grid:
        """The cells as strings."""
        return Grid(self.rows(), self.metric, self.source, self.unpruned, self.reused)
