"""Cells of a comparison: a criterion, a budget, a repair, a seed, and the figure that came of them; in memory and in files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.files import finite, locked, require_writable, write_text


@dataclass(frozen=True)
class Metric:
    """A figure of a model by which pruned models can be compared.

    Attributes:
        name: Its key in files.
        label: What tables and plots call it, with the unit.
        scale: What the value in files is multiplied by in tables and plots, such as 100 for per cent.
        digits: How tables and plots write the scaled value.
    """

    name: str
    label: str
    scale: float
    digits: str
    higher_is_better: bool

    def text(self, value: float) -> str:
        """The scaled value, as tables show it; large ones without the `e` of scientific notation."""
        scaled = self.scale * value
        return f"{scaled:.0f}" if 1e3 <= abs(scaled) < 1e6 else format(scaled, self.digits)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "Accuracy (%)", 100, ".1f", True),
        Metric("score", "Score", 1, ".4g", True),
        Metric("output_error", "Error of the outputs (%)", 100, ".3g", False),
    )
}
"""Every metric by name."""


class CompareError(DFPCError, ValueError):
    """A comparison that cannot be made as it was asked for."""


@dataclass(frozen=True)
class Cell:
    """What is done to a copy of the model.

    Attributes:
        criterion: Name of the criterion.
        budget: The target, as `Target.parse` reads it.
        repair: The repair method.
        seed: Seed of the criterion's random numbers, and of the repair's noise and images.
    """

    criterion: str
    budget: str
    repair: str
    seed: int


@dataclass(frozen=True)
class CellResult:
    """What came of a cell.

    Attributes:
        cell: The cell.
        value: The figure of the pruned model; None where the cell failed.
        standard_error: Standard error of the value, where it is an average over images.
        macs: Share of the MACs that remain.
        params: Share of the parameters that remain.
        speedup: How many times faster the pruned model is, where latency was measured.
        seconds: What pruning and repair took.
        error: Why the cell failed; empty where it did not.
        label: How tables and plots call a criterion of the user's own; empty for those that this library knows by name.
        digest: Of the code and settings of such a criterion, and of the images that the criterion or the repair looked at.
    """

    cell: Cell
    value: float | None = None
    standard_error: float | None = None
    macs: float | None = None
    params: float | None = None
    speedup: float | None = None
    seconds: float | None = None
    error: str = ""
    label: str = ""
    digest: str = ""

    def to_json(self, metric: str) -> dict[str, Any]:
        """Return the cell and what came of it in one mapping, without what is not known; the value is under the metric's name."""
        found = asdict(self)
        del found["cell"]
        content = asdict(self.cell) | {metric: found.pop("value")} | found
        return {name: value for name, value in content.items() if value not in (None, "")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], metric: str) -> CellResult:
        """Read what `to_json` has returned.

        Raises:
            KeyError: A part of the cell is missing.
            TypeError: There is something else in it.
        """
        values = dict(content)
        cell = Cell(**{name: values.pop(name) for name in ("criterion", "budget", "repair", "seed")})
        return cls(cell, values.pop(metric, None), **values)


@dataclass(frozen=True)
class Unpruned:
    """Figures of the unpruned model, of one forward of the example inputs; MACs and parameters are None if not noted."""

    macs: int | None
    params: int | None
    value: float
    standard_error: float | None = None


class CellStore:
    """Keeps finished cells in memory.

    Attributes:
        experiment: What cells have in common.
        known: Every finished cell, in the order in which they were finished.
        unpruned: The figures of the unpruned model; None until they are known.
    """

    def __init__(self, experiment: Mapping[str, Any]) -> None:
        """Know no cells yet."""
        self.experiment = json.loads(json.dumps(experiment))
        self.known: dict[Cell, CellResult] = {}
        self.unpruned: Unpruned | None = None

    def begin(self, unpruned: Unpruned) -> None:
        """Keep the figures of the unpruned model."""
        self.unpruned = unpruned

    def add(self, result: CellResult) -> None:
        """Keep a finished cell."""
        self.known[result.cell] = result


class FileStore(CellStore):
    """Keeps finished cells in a file, too."""

    def __init__(self, path: Path, experiment: Mapping[str, Any]) -> None:
        """Take up the cells in a file, or begin it; raise a CompareError if it holds something else than this experiment."""
        super().__init__(experiment)
        self._path = path
        require_writable(path)
        if path.exists():
            self._take_up(path)

    def begin(self, unpruned: Unpruned) -> None:
        """Keep the figures of the unpruned model."""
        super().begin(unpruned)
        write_text(self._path, as_lines(self.experiment, unpruned, ()))

    def add(self, result: CellResult) -> None:
        """Keep a finished cell; once this returns, it is on the disk."""
        super().add(result)
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(result.to_json(self.experiment["metric"])))
            file.flush()
            os.fsync(file.fileno())

    def _take_up(self, path: Path) -> None:
        """Read what an earlier run has left."""
        text = path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if not whole:  # stopped while the first line was written
            return
        experiment, self.unpruned, results = read_lines(whole, path)
        other = sorted(
            key for key in {*experiment, *self.experiment} if experiment.get(key) != self.experiment.get(key)
        )
        if other:
            told = "; ".join(
                f"{key} is {experiment.get(key)} there and {self.experiment.get(key)} here" for key in other
            )
            raise CompareError(
                f"'{path}' holds another comparison ({told}); name another file as save_to (--save_to), or remove that one."
            )
        self.known = {result.cell: result for result in results}
        if whole != text:  # the last line was cut off
            write_text(path, whole)


@contextlib.contextmanager
def reserved(path: Path | None) -> Iterator[None]:
    """Keep other processes from working on a file; raise a CompareError if one does."""
    if path is None:
        yield
        return
    require_writable(path)
    refusal = CompareError(f"'{path}' is in use by another process; wait for it, or name another file as save_to.")
    with locked(path.with_name(f".{path.name}.lock"), refusal):
        yield


def as_lines(experiment: Mapping[str, Any], unpruned: Unpruned, results: Iterable[CellResult]) -> str:
    """Write a comparison as JSON lines."""
    first = {"experiment": dict(experiment), "unpruned": asdict(unpruned)}
    return _line(first) + "".join(_line(result.to_json(experiment["metric"])) for result in results)


def read_lines(
    text: str, path: Path, advice: str = "name another file as save_to"
) -> tuple[dict[str, Any], Unpruned, list[CellResult]]:
    """Read a comparison, as JSON lines or as one JSON object; raise a CompareError that names the file and the line if it is none."""
    number = 1
    try:
        first, *rest = text.splitlines() or [""]
        content = json.loads(first)
        experiment, unpruned = content["experiment"], Unpruned(**content["unpruned"])
        if experiment["metric"] not in METRICS:
            raise ValueError(f"no metric is called {experiment['metric']!r}")
        results = [CellResult.from_json(cell, experiment["metric"]) for cell in content.get("cells", ())]
        for line in rest:
            number += 1
            results.append(CellResult.from_json(json.loads(line), experiment["metric"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompareError(
            f"'{path}' is no file of a comparison: line {number} cannot be read ({error}); {advice}."
        ) from error
    return experiment, unpruned, results


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(finite(content), allow_nan=False) + "\n"
