"""The importance criteria that go by a name, DFPC's and Torch-Pruning's."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp

from dfpc_plugin.errors import PrunerSettingError
from dfpc_plugin.importance import DFPCImportance

__all__ = ["CRITERIA", "Criterion", "Importance", "as_importance", "no_criterion"]

Importance = Callable[[tp.dependency.Group], torch.Tensor | None]
"""What Torch-Pruning asks for: from a group of coupled channels to one score per channel."""


@dataclass(frozen=True)
class Criterion:
    """A way to tell which channels matter.

    Attributes:
        name: How the configuration calls it.
        label: How tables and plots call it.
        build: Makes a fresh importance for Torch-Pruning.
        random: Whether it draws random numbers, so that one cut says little.
    """

    name: str
    label: str
    build: Callable[[], Importance]
    random: bool = False


_ALL = (
    Criterion("dfpc", "DFPC", DFPCImportance),
    Criterion("dfpc-output", "DFPC, output", functools.partial(DFPCImportance, "output")),
    Criterion("dfpc-relative", "DFPC, relative", functools.partial(DFPCImportance, "relative")),
    Criterion("dfpc-mean", "DFPC, coupling-mean", functools.partial(DFPCImportance, "coupling-mean")),
    Criterion("dfpc-published", "DFPC, published", functools.partial(DFPCImportance, "published")),
    Criterion("magnitude", "Magnitude (TP)", tp.importance.GroupMagnitudeImportance),
    Criterion("l1", "L1 (TP)", functools.partial(tp.importance.GroupMagnitudeImportance, p=1)),
    Criterion("fpgm", "FPGM (TP)", tp.importance.FPGMImportance),
    Criterion("lamp", "LAMP (TP)", tp.importance.LAMPImportance),
    Criterion("bnscale", "BN scale (TP)", tp.importance.BNScaleImportance),
    Criterion("random", "Random (TP)", tp.importance.RandomImportance, random=True),
)
CRITERIA: dict[str, Criterion] = {criterion.name: criterion for criterion in _ALL}
"""Every criterion by name; those marked TP come with Torch-Pruning."""


def as_importance(value: Any) -> Importance | None:
    """Return the importance that a user means: an object that scores groups, its class, or the name of one.

    Args:
        value: What the user gave; None, or "auto", for the default.

    Raises:
        PrunerSettingError: It is none; the message says what to give.
    """
    if value is None or value == "auto":
        return None
    if isinstance(value, str):
        if value not in CRITERIA:
            raise PrunerSettingError(no_criterion(value, ("auto", *CRITERIA)))
        return CRITERIA[value].build()
    if isinstance(value, type) and issubclass(value, tp.importance.Importance):
        return value()
    if not callable(value) or isinstance(value, type):
        kind = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise PrunerSettingError(
            f"importance is {kind}; give an object that scores groups, such as DFPCImportance(), or one of the names "
            f"{', '.join(CRITERIA)}."
        )
    return value


def no_criterion(name: str, names: tuple[str, ...]) -> str:
    """Say that there is no criterion of that name, and which one may be meant."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "choose one of them."
    return f"importance='{name}' is none of {', '.join(names)}; {hint}"
