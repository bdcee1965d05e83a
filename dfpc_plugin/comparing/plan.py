"""What a comparison is asked for, checked before any work is done."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dfpc_plugin.comparing.cells import Cell, CompareError
from dfpc_plugin.comparing.contenders import contenders
from dfpc_plugin.criteria import Criterion
from dfpc_plugin.plain_data import Seed, checked
from dfpc_plugin.pruning import prune
from dfpc_plugin.repairing import METHODS, Method
from dfpc_plugin.selection import Target, TargetError

__all__ = ["Budget", "Plan"]

Budget = str | float | Target
"""A target, or the share of the MACs to keep."""
_OPTIONS = set(inspect.signature(prune).parameters) - {"model", "example_inputs", "images", "progress"}


@dataclass(frozen=True)
class Plan:
    """What is to be compared, checked.

    Attributes:
        criteria: By name.
        budgets: As `Target.parse` reads them.
        repairs: Methods.
        seeds: Seeds.
        options: Further arguments of `prune`.
    """

    criteria: dict[str, Criterion]
    budgets: tuple[str, ...]
    repairs: tuple[Method, ...]
    seeds: tuple[int, ...]
    options: dict[str, Any]

    @classmethod
    def of(cls, criteria: Any, budgets: Any, repairs: Any, seeds: Any, images: bool, options: dict[str, Any]) -> Plan:
        """Check what was asked for; raise a CompareError, or a TargetError for a budget, that says what makes no sense."""
        chosen = {criterion.name: criterion for criterion in contenders(_several(criteria))}
        plan = cls(
            chosen, tuple(map(_target, _several(budgets))), tuple(_several(repairs)), tuple(_several(seeds)), options
        )
        plan._check(images)
        return plan

    def _check(self, images: bool) -> None:
        for name in ("criteria", "budgets", "repairs", "seeds"):
            values = list(getattr(self, name))
            if not values:
                raise CompareError(f"{name}: there are none; give at least one.")
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise CompareError(f"{name}: '{twice}' is given twice; give it once.")
        for repair in self.repairs:
            METHODS.find(repair, CompareError, setting="repairs")
        checked(tuple[Seed, ...], self.seeds, "seeds", CompareError)
        if not images and self.fitting:
            raise CompareError(f"'{self.fitting[0]}' needs images; pass unlabelled ones as images, or leave it out.")
        own = {"importance": "criteria", "target": "budgets", "repair": "repairs", "inplace": "nothing"}
        unusable = next((name for name in self.options if name in own or name not in _OPTIONS), None)
        if unusable is not None:
            hint = f"; give {own[unusable]} instead" if unusable in own else ""
            raise CompareError(f"'{unusable}' is no argument of a comparison{hint}; see the arguments of prune.")

    @property
    def fitting(self) -> list[str]:
        """The criteria and repairs that look at images."""
        found = [name for name, criterion in self.criteria.items() if criterion.gradients]
        return found + [repair for repair in self.repairs if METHODS[repair].images == "given"]

    def cells(self) -> list[Cell]:
        """Every cell, budget by budget."""
        return [
            Cell(name, budget, repair, seed)
            for budget, (name, criterion), repair, seed in itertools.product(
                self.budgets, self.criteria.items(), self.repairs, self.seeds
            )
            if seed == self.seeds[0] or criterion.random or repair != "none"
        ]


def _several(values: Any) -> tuple[Any, ...]:
    """What is given as one or as several, as several."""
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)


def _target(budget: Budget) -> str:
    """A budget as `Target.parse` reads it; a number, also in words, is a share of the MACs."""
    try:
        return str(Target(macs=float(budget)))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        if isinstance(error, TargetError):
            raise
        return str(Target.parse(budget))  # type: ignore[arg-type]
