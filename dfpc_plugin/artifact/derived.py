"""Attributes that forwards fill for themselves, from what they are called with: no part of what a model is."""

from __future__ import annotations

from torch import nn

__all__ = ["derived_names"]

_DERIVED: dict[str, frozenset[str]] = {
    "torchvision.ops.poolers.MultiScaleRoIAlign": frozenset({"scales", "map_levels"}),
}
"""Names of such attributes by class; None until the first call, and objects that are no plain data after it."""


def derived_names(module: nn.Module) -> frozenset[str]:
    """Names of the attributes of `module` that its forward fills again when they are None."""
    kinds = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return frozenset().union(*(_DERIVED.get(kind, frozenset()) for kind in kinds))
