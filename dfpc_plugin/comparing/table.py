"""A comparison as a table, for the terminal and in Markdown: a section for each budget, criteria by repairs."""

from __future__ import annotations

import functools
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from dfpc_plugin.comparing.cells import CellResult, Metric, Unpruned
from dfpc_plugin.comparing.plan import label_of_name
from dfpc_plugin.display import as_text, number_columns, plain_table
from dfpc_plugin.report.page.wording import THIN, short


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


_SPEED, _PARAMS, _MACS, _DEVIATIONS = "Speed-up", "Params", "MACs", "standard deviations"
_FIRST_TO_GO = (_SPEED, _DEVIATIONS, _PARAMS, _MACS)
"""What a narrow terminal does without, in this order."""
_COSTS = {_MACS: "macs", _PARAMS: "params", _SPEED: "speedup"}
_FAILED = "-"
_FEW_IMAGES = 100


@dataclass(frozen=True)
class Grid:
    """A comparison, ready to be written as text."""

    rows: tuple[Row, ...]
    metric: Metric
    source: str
    unpruned: Unpruned
    reused: int = 0

    def text(self, width: int) -> str:
        """Return the table for a terminal of so many columns."""
        wide = Console(width=10_000)
        choices = [_FIRST_TO_GO[:count] for count in range(len(_FIRST_TO_GO) + 1)]
        fitting = (c for c in choices if Measurement.get(wide, wide.options, self._table(c)).maximum <= width)
        without = next(fitting, _FIRST_TO_GO)
        return as_text(self._table(without), *self._remarks(without), width=width)

    def markdown(self) -> str:
        """Return a Markdown table for each budget, and the remarks."""
        columns = self._columns(())
        lines = [f"{self._title}."]
        for budget, rows in self._sections():
            lines += ["", f"**{budget}**", "", _pipes(["Criterion", *columns]), "|---" * (len(columns) + 1) + "|"]
            lines += [_pipes([row.label.replace("|", "\\|"), *(of(row) for of in columns.values())]) for row in rows]
        remarks = self._remarks(())[1:]  # the first one is the title
        return "\n".join([*lines, *(f"\n{remark}" for remark in remarks)]) + "\n"

    def _table(self, without: tuple[str, ...]) -> Table:
        """The table without some of its columns, or without deviations."""
        columns = self._columns(without)
        table = plain_table(Column("Criterion", no_wrap=True), *number_columns(*columns))
        for budget, rows in self._sections():
            table.add_section()
            table.add_row(Text(budget))
            for row in rows:
                table.add_row(f"  {row.label}", *(Text(of(row)) for of in columns.values()))
        return table

    def _sections(self) -> list[tuple[str, list[Row]]]:
        """Rows by budget."""
        budgets = dict.fromkeys(row.budget for row in self.rows)
        return [(budget, [row for row in self.rows if row.budget == budget]) for budget in budgets]

    def _columns(self, without: tuple[str, ...]) -> dict[str, Callable[[Row], str]]:
        """What columns there are besides the criterion, and what each has of a row."""
        found: dict[str, Callable[[Row], str]] = {}
        for heading, name in _COSTS.items():
            if heading not in without and any(row.costs(name) for row in self.rows):
                written = "{:.2f}x" if heading == _SPEED else "{:.1%}"
                found[heading] = lambda row, name=name, written=written: _range(row.costs(name), written)  # type: ignore[misc]
        for repair in repairs_of(self.rows):
            found[repair] = functools.partial(self._value, repair, _DEVIATIONS not in without)
        return found

    @property
    def _rivals(self) -> bool:
        """Whether there is more than one criterion, of which one can be the best."""
        return len({row.criterion for row in self.rows}) > 1

    def _value(self, repair: str, deviation: bool, row: Row) -> str:
        value = row.values(repair)
        if value is None:
            return _FAILED
        spread = f" ± {float(format(self.metric.scale * value.std, '.2g')):g}" if value.std and deviation else ""
        best = self._rivals and row.criterion in leaders(self.rows, row.budget, repair, self.metric)
        return f"{self.metric.text(value.mean)}{spread}" + (" *" if best else "")

    @property
    def _title(self) -> str:
        """What the figures are, and what they are of the unpruned model."""
        error = self.unpruned.standard_error
        before = self.metric.text(self.unpruned.value)
        uncertain = "" if error is None else f", standard error {self.metric.text(error)}"
        return f"{self.metric.label} on {self.source}, by repair; unpruned: {before}{uncertain}"

    def _remarks(self, without: tuple[str, ...]) -> list[str]:
        """What stands behind the figures, and why some are not there."""
        within = "" if self.unpruned.standard_error is None else ", or within one standard error of the best"
        lines = [f"{self._title}.", *self._uncertainty(), self._about_costs()]
        several = any(len(cells) > 1 for row in self.rows for cells in row.cells.values())
        deviation = " ± Standard deviation over seeds." if several else ""
        if any(len({len(cells) for cells in row.cells.values()}) > 1 for row in self.rows):
            deviation += " Where nothing is random, there is one seed."
        best = f"* Best at its budget{within}." if self._rivals else ""
        lines += [f"{best}{deviation}".strip()] if best or several else []
        lines.append(f"Seconds for each cell: {', '.join(self._seconds())}.")
        lines += self._failures()
        if self.reused:
            count = sum(len(cells) for row in self.rows for cells in row.cells.values())
            lines.append(f"{self.reused} of {count} cells are from an earlier run.")
        if without:
            lines.append(f"Left out, as the terminal is too narrow: {', '.join(without)}.")
        return lines

    def _uncertainty(self) -> list[str]:
        """A warning if there are too few images to tell criteria apart."""
        error = self.unpruned.standard_error
        images = re.match(r"(\d+) labelled images", self.source)
        if error is None or images is None or int(images[1]) >= _FEW_IMAGES:
            return []
        return [
            f"{images[1]} images are few: accuracies that differ by less than {100 / int(images[1]) ** 0.5:.0f} points mean nothing."
        ]

    def _about_costs(self) -> str:
        """What the columns of costs are."""
        ranges = any(len(set(row.costs(name))) > 1 for row in self.rows for name in ("macs", "params"))
        several = "; a range where it differs between repairs" if ranges else ""
        if self.unpruned.macs is None or self.unpruned.params is None:
            return f"MACs and Params: share that remains{several}."
        macs, params = (short(count).replace(THIN, " ") for count in (self.unpruned.macs, self.unpruned.params))
        return f"MACs and Params: share that remains of {macs} MACs and {params} parameters{several}."

    def _failures(self) -> list[str]:
        """Why cells have no figures, each reason once."""
        cells = [(row, repair, cell) for row in self.rows for repair, own in row.cells.items() for cell in own]
        found: dict[tuple[str, str], list[tuple[Row, str]]] = {}
        for row, repair, cell in cells:
            if cell.error:
                found.setdefault((row.budget, cell.error), []).append((row, repair))
        lines = []
        for (budget, reason), failed in found.items():
            names = dict.fromkeys(f"{row.name} with {repair}" for row, repair in failed)
            everything = len(failed) == sum(row.budget == budget for row, _, _ in cells)
            lines.append(f"Failed at {budget}, {'all' if everything else ', '.join(names)}: {reason}")
        return lines

    def _seconds(self) -> list[str]:
        """What pruning with each repair took, on average."""
        found = []
        for repair in repairs_of(self.rows):
            took = Spread.of(cell.seconds for row in self.rows for cell in row.cells.get(repair, ()))
            found += [] if took is None else [f"{repair} {took.mean:.2g}"]
        return found or ["none was finished"]


def _range(values: tuple[float, ...], written: str) -> str:
    """The least and the greatest of some values, or the one that all are."""
    if not values:
        return _FAILED
    least, greatest = written.format(min(values)), written.format(max(values))
    return greatest if least == greatest else f"{least.rstrip('%x')}-{greatest}"


def _pipes(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
