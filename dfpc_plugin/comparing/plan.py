"""What a comparison is asked for, checked before any work is done; and the criteria that it knows."""

from __future__ import annotations

import inspect
import itertools
import pkgutil
import re
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfpc_plugin.arguments import instead_of
from dfpc_plugin.comparing.cells import Cell, CompareError
from dfpc_plugin.comparing.digest import digest_of
from dfpc_plugin.criteria import AUTO, CRITERIA, SHIPPED, TAYLOR, Criterion, criterion_of
from dfpc_plugin.errors import PrunerSettingError
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.plain_data import Seed, checked
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.pruning import prune
from dfpc_plugin.pruning.prunable_model import copy_of
from dfpc_plugin.repairing import METHODS, Method
from dfpc_plugin.repairing.inputs import collected
from dfpc_plugin.repairing.settings import Images
from dfpc_plugin.selection import Target

_IMAGES, _BATCH = 128, 32
_NUMBER = re.compile(r"[-+.\d][-+.\de]*\s*%?")

_MORE = {
    AUTO: Criterion(
        AUTO, "Default of prune", lambda: None, "the error at the outputs, after the repair if one follows"
    ),
    TAYLOR.name: TAYLOR,
}
"""Criteria that a comparison knows beside the registered ones."""


def contenders(criteria: Iterable[Any]) -> dict[str, Criterion]:
    """Look criteria up by name, or take the user's own; raise a CompareError if one is unknown or given twice."""
    found: dict[str, Criterion] = {}
    for criterion in map(_criterion, criteria):
        if criterion.name in found:
            own = "" if _known(criterion.name) else ", or tell two of a kind apart by Criterion(name, label, build)"
            raise CompareError(f"criteria: '{criterion.name}' is given twice; give it once{own}.")
        found[criterion.name] = criterion
    return found


def _criterion(given: Any) -> Criterion:
    """One criterion, by its name, or the user's own."""
    if isinstance(given, str) and ":" in given:
        try:
            given = pkgutil.resolve_name(given)
        except Exception as error:  # importing runs any code of the module
            raise CompareError(
                f"criteria: '{given}' cannot be imported ({type(error).__name__}: {error}); name what scores groups as "
                f"package.module:name, of a package that Python finds from here."
            ) from error
    if isinstance(given, Criterion):
        return given
    if isinstance(given, str):
        return _MORE.get(given) or CRITERIA.find(given, CompareError, *_MORE, setting="criteria")
    try:
        return criterion_of(given)
    except PrunerSettingError as error:
        raise CompareError(str(error).replace("importance is", "criteria has", 1)) from None


def own_label(criterion: Criterion) -> str:
    """How tables call a criterion of the user's own; empty for one that goes by its name."""
    return "" if _known(criterion.name) == criterion else criterion.label


def is_own(criterion: Criterion) -> bool:
    """Whether a criterion is the user's own, registered or not, and so does not come with this library."""
    return criterion.name not in (*_MORE, *SHIPPED) or bool(own_label(criterion))


def own_digest(criterion: Criterion) -> str:
    """The digest of a criterion of the user's own; empty for others."""
    return digest_of(criterion.build()) if is_own(criterion) else ""


def label_of_name(name: str) -> str:
    """How tables and plots call a criterion; one that is not registered goes by its name."""
    known = _known(name)
    return known.label if known else name


def _known(name: str) -> Criterion | None:
    return _MORE.get(name) or CRITERIA.get(name)


def with_gradients(model: nn.Module, images: Images, example_inputs: ExampleInputs) -> nn.Module:
    """Return a copy of a classifier with the gradients of the cross-entropy between its outputs and its own answers.

    Of the images, 128 are used. A model that is no classifier of images raises a CompareError.
    """
    copied = copy_of(model).requires_grad_(True)
    copied.zero_grad()
    parts = collected(images, _IMAGES, model, 0, example_inputs).parts
    with evaluating(copied), torch.inference_mode(False), torch.enable_grad():
        for batch in (batch for part in parts if isinstance(part, Tensor) for batch in part.split(_BATCH)):
            outputs = copied(batch)
            if not isinstance(outputs, Tensor) or outputs.dim() != 2:
                break
            F.cross_entropy(outputs, outputs.argmax(1), reduction="sum").backward()
        gradients = {name: own.grad for name, own in copied.named_parameters() if own.grad is not None}
    if not gradients:
        raise CompareError(
            "The criterion needs gradients of a classifier of images, and the model is none; leave it out."
        )
    for name, parameter in copied.named_parameters():  # at its end, `evaluating` has put back that there were none
        parameter.grad = gradients.get(name)
    return copied


Budget = str | float | Target
"""A target, or the share of the MACs to keep."""
_OPTIONS = set(inspect.signature(prune).parameters) - {"model", "example_inputs", "images", "progress"}


_INSTEAD = {
    "importance": "criteria",
    "target": "budgets",
    "pruning_ratio": "budgets",
    "repair": "repairs",
    "inplace": "nothing",
}
"""What says here what an argument of `prune` says there."""


class Plan:
    """What is to be compared, checked: budgets as `Target.parse` reads them, and further options of `prune`."""

    def __init__(
        self, criteria: Any, budgets: Any, repairs: Any, seeds: Any, images: bool, options: dict[str, Any]
    ) -> None:
        """Check what was asked for; raise a CompareError, or a TargetError for a budget, that says what makes no sense."""
        self.criteria = contenders(_several(criteria))
        self.budgets = tuple(map(_target, _several(budgets)))
        self.repairs: tuple[Method, ...] = _several(repairs)
        self.seeds: tuple[int, ...] = _several(seeds)
        self.options = options
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
        unusable = next((name for name in options if name in _INSTEAD or name not in _OPTIONS), None)
        if unusable is not None:
            known = ("criteria", "budgets", "repairs", "seeds", *sorted(_OPTIONS - _INSTEAD.keys()))
            hint = f"; give {_INSTEAD[unusable]} instead." if unusable in _INSTEAD else instead_of(unusable, known)
            raise CompareError(f"'{unusable}' is no argument of a comparison{hint}")

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
    """A budget as `Target.parse` reads it; a number or a percentage, also as text, is a share of the MACs."""
    bare = isinstance(budget, int | float) or (isinstance(budget, str) and _NUMBER.fullmatch(budget.strip()))
    return str(Target.parse(f"macs={budget}" if bare else budget))  # type: ignore[arg-type]
