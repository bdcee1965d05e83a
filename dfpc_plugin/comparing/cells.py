"""One cell of a comparison: a criterion, a budget, a repair and a seed, and the figure that came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dfpc_plugin.errors import DFPCError

__all__ = ["METRICS", "Cell", "CellResult", "CompareError", "Metric", "Unpruned"]


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


_ALL = (
    Metric("accuracy", "Accuracy (%)", 100, ".1f", True),
    Metric("score", "Score", 1, ".4g", True),
    Metric("output_error", "Error of the outputs (%)", 100, ".3g", False),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
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
