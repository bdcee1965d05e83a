"""The registry of importance criteria that have a name: `CRITERIA`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp

from dfpc_plugin.errors import PrunerSettingError
from dfpc_plugin.importance import DFPCImportance, unwrapped
from dfpc_plugin.registry import Registry

AUTO = "auto"
"""The name of the criterion that fits the repair."""

Importance = Callable[[tp.dependency.Group], torch.Tensor | None]
"""From a group of coupled channels to one score per channel, as in Torch-Pruning."""


@dataclass(frozen=True)
class Criterion:
    """An importance criterion with a name.

    Attributes:
        name: In recipes, on the command line, and for `prune(importance=...)`.
        label: In tables, plots and reports.
        build: Makes a new importance for Torch-Pruning; None leaves the choice to `prune`.
        summary: What it scores by, in one line, for help texts and the documentation.
        random: Whether it draws random numbers, so that a single result means little.
        gradients: Whether it uses gradients of a loss, which need images.
    """

    name: str
    label: str
    build: Callable[[], Importance | None]
    summary: str = ""
    random: bool = False
    gradients: bool = False


CRITERIA = Registry(
    "importance",
    Criterion("dfpc", "DFPC, expected", DFPCImportance, "share of the expected squared output of the layers that read a channel"),
    Criterion(
        "dfpc-output", "DFPC, output", functools.partial(DFPCImportance, "output"), "share of the variance of the model's outputs",
    ),
    Criterion(
        "dfpc-relative", "DFPC, relative", functools.partial(DFPCImportance, "relative"), "the paper's bounds, as shares of every reading layer's total",
    ),
    Criterion(
        "dfpc-mean", "DFPC, coupling-mean", functools.partial(DFPCImportance, "coupling-mean"), "the paper's bounds over their mean in the coupling",
    ),
    Criterion("dfpc-published", "DFPC, published", functools.partial(DFPCImportance, "published"), "the paper's bounds"),
    Criterion(
        "magnitude", "Magnitude (TP)", tp.importance.GroupMagnitudeImportance, "L2 norm of the weights of the coupling",
    ),
    Criterion(
        "l1", "L1 (TP)", functools.partial(tp.importance.GroupMagnitudeImportance, p=1), "L1 norm of the weights of the coupling",
    ),
    Criterion("fpgm", "FPGM (TP)", tp.importance.FPGMImportance, "distance of a filter from the others of its layer"),
    Criterion("lamp", "LAMP (TP)", tp.importance.LAMPImportance, "squared weights over those that are at least as large"),
    Criterion("bnscale", "BN scale (TP)", tp.importance.BNScaleImportance, "scale of the batch norm behind a channel"),
    Criterion("random", "Random (TP)", tp.importance.RandomImportance, "random numbers", random=True),
)  # fmt: skip
"""Every criterion by name; those marked TP come with Torch-Pruning. `CRITERIA.register(Criterion(...))` adds one."""
SHIPPED = frozenset(CRITERIA)
"""Names of the criteria that come with this library, whose code is that of its version."""
TAYLOR = Criterion(
    "taylor",
    "Taylor (TP, images)",
    tp.importance.GroupTaylorImportance,
    "gradients of a loss on images",
    gradients=True,
)
"""Torch-Pruning's criterion of gradients; not in `CRITERIA`, as `prune` computes no gradients."""


def as_importance(value: Any) -> Importance | None:
    """Return an importance from an object that scores groups, its class, or the name of a criterion; None for the default.

    Raises PrunerSettingError for anything else; the message says what to give.
    """
    if value is None or value == AUTO:
        return None
    if isinstance(value, str):
        criterion = TAYLOR if value == TAYLOR.name else CRITERIA.find(value, PrunerSettingError, AUTO, TAYLOR.name)
        value = criterion.build()
        if not hasattr(value, "label"):
            value.label = criterion.label  # for reports: criteria of one class differ in their settings
    if isinstance(value, type) and any("__call__" in vars(base) for base in value.__mro__) and not _arguments(value):
        value = value()
    if not callable(value) or isinstance(value, type):
        kind = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise PrunerSettingError(
            f"importance is {kind}; give an object that scores groups, such as DFPCImportance(), or one of the names "
            f"{', '.join((AUTO, TAYLOR.name, *CRITERIA))}."
        )
    own: Importance = value
    return own


def _arguments(kind: type) -> list[str]:
    """Names of the arguments that a class cannot be called without."""
    parameters = inspect.signature(kind).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [own.name for own in parameters if own.default is own.empty and own.kind not in optional]


def criterion_of(importance: Any) -> Criterion:
    """Return an importance of one's own, or its class, as a criterion; raises PrunerSettingError as `as_importance` does."""
    own = as_importance(importance)
    name, kind = label_of(own), tp.importance
    random, gradients = (isinstance(unwrapped(own), one) for one in (kind.RandomImportance, kind.GroupTaylorImportance))
    return Criterion(name, name, lambda: own, random=random, gradients=gradients)


def label_of(importance: Any) -> str:
    """Return the name of an importance in reports: its label, or the name of its class or function."""
    inner = unwrapped(importance)
    return str(getattr(inner, "label", getattr(inner, "__name__", type(inner).__name__)))


def require_scores_of_copies(importance: Any) -> None:
    """Raise PrunerSettingError if an importance knows one model's tensors alone, as `prune` scores a copy of the model."""
    inner = unwrapped(importance)
    if isinstance(inner, tp.importance.GroupHessianImportance | tp.importance.OBDCImportance):
        raise PrunerSettingError(
            f"{label_of(importance)} scores only the model that it has accumulated gradients of, and prune scores a copy; use "
            f"DFPCPruner, or GroupTaylorImportance, which reads the gradients in the model."
        )


def require_gradients(importance: Any, group: tp.dependency.Group) -> None:
    """Raise PrunerSettingError if an importance reads gradients, and a layer of the group that it is to score has none."""
    inner = unwrapped(importance)
    if not isinstance(inner, tp.importance.GroupTaylorImportance):
        return
    nodes = (item.dep.target for item in group if isinstance(item.dep.target.module, tuple(inner.target_types)))
    weights = ((node.name, node.module.weight) for node in nodes)
    without = next((name for name, weight in weights if weight is not None and weight.grad is None), None)
    if without is not None:
        raise PrunerSettingError(
            f"{label_of(importance)} reads gradients, and the weight of '{without.partition(' ')[0]}' has none; compute them on the "
            f"model first: F.cross_entropy(model(images), labels).backward()."
        )
