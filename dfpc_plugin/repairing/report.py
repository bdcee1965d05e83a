"""The report of a repair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Column, Table
from rich.text import Text
from torch import nn

from dfpc_plugin.display import Name, Shown, as_text, number_columns, percent, plain_table, took
from dfpc_plugin.wrappers import HoldsModel

NO_PLACE = "has no place for a constant: no bias, nor a batch norm to itself"
SHARED = "shares its weight with another layer"
_SHOWN = 12


@dataclass(frozen=True)
class LayerRepair:
    """What was done to one layer.

    Attributes:
        name: The layer.
        changed: Whether its weights have changed.
        before: Squared error of its outputs over the variance of their targets, on held-out samples. NaN if not
            measured.
        after: The same after the repair.
        ridge: The ridge that was used; None if nothing was solved.
        note: The reason for its state, in words; empty for a plain repair.
    """

    name: str
    changed: bool
    before: float = math.nan
    after: float = math.nan
    ridge: float | None = None
    note: str = ""


@dataclass(frozen=True, repr=False)
class RepairResult(HoldsModel, Shown):
    """A repaired model and a report of the repair. `print` it for a table.

    Attributes:
        model: The repaired model.
        method: The method that was asked for.
        layers: What was done, in the order of the forward.
        output_error: Squared error of the model's outputs over their variance, before and after; None if outputs cannot be
            compared.
        seconds: Duration of each phase.
        notes: Remarks for the user, in sentences.
        measured_on: What `output_error` was measured on: held-out images, noise, or the example inputs of a model that takes
            more than images.
    """

    model: nn.Module
    method: str
    layers: tuple[LayerRepair, ...]
    output_error: tuple[float, float] | None
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    measured_on: str = ""

    @property
    def summary(self) -> str:
        """What was done, in one or two sentences."""
        changed = sum(layer.changed for layer in self.layers)
        said = f"Repaired by {self.method}: {changed} of {len(self.layers)} layers changed."
        if self.output_error is None:
            return said
        before, after = map(percent, self.output_error)
        return f"{said} On {self.measured_on}, the squared error of the outputs went from {before} to {after} of their variance."

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as dicts, lists, numbers and strings; None for what was not measured."""
        return {
            "method": self.method,
            "layers": [{k: None if v != v else v for k, v in asdict(layer).items()} for layer in self.layers],
            "output_error": None if self.output_error is None else list(self.output_error),
            "measured_on": self.measured_on,
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """The table of errors before and after."""
        return as_text(self.summary, self._table(), took(self.seconds), *self.notes)

    def __repr__(self) -> str:
        """The summary in a line."""
        return f"RepairResult of {type(self.model).__name__}. {self.summary}"

    def _table(self) -> Table:
        """The layers with the largest errors."""
        changed = [layer for layer in self.layers if layer.changed or layer.note not in ("", "as in the original")]
        changed.sort(key=lambda layer: -layer.before if layer.before == layer.before else 0.0)
        table = plain_table(Column("layer", min_width=14), *number_columns("error before", "after", "ridge"), "")
        if not any(layer.before == layer.before or layer.note for layer in changed):  # the method used weights alone
            table.columns[1:] = []
        names = [layer.name for layer in changed[:_SHOWN]]
        for layer in changed[:_SHOWN]:
            errors = ["" if value != value else f"{value:.2%}" for value in (layer.before, layer.after)]
            ridge = "" if layer.ridge is None else f"{layer.ridge:g}"
            cells: list[Name | str] = [Name(layer.name, among=names), *errors, ridge, layer.note]
            table.add_row(*cells[: len(table.columns)])
        if len(changed) > _SHOWN:
            table.add_row(Text(f"and {len(changed) - _SHOWN} more", style="dim"))
        return table
