"""What forwards make for themselves, from what they are called with: attributes and hooks that are no part of what a model is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

__all__ = ["derived_names", "kept_hooks"]

_DERIVED: dict[str, frozenset[str]] = {
    "torchvision.ops.poolers.MultiScaleRoIAlign": frozenset({"scales", "map_levels"}),
    "transformers.modeling_utils.PreTrainedModel": frozenset({"_output_capturing_hooks_installed"}),
    "ultralytics.nn.modules.head.Detect": frozenset({"anchors", "strides", "shape"}),
    "ultralytics.nn.modules.head.RTDETRDecoder": frozenset({"anchors", "valid_mask", "shapes"}),
}
"""Names of such attributes by class; None or those of the class until the first call."""

_DERIVED_HOOKS = frozenset({"transformers.utils.output_capturing"})
"""Modules of libraries whose hooks a model registers at its first call, on itself, and again on a model that is loaded."""


def derived_names(module: nn.Module) -> frozenset[str]:
    """Names of the attributes of `module` that its forward fills again when they are not there or None."""
    kinds = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return frozenset().union(*(_DERIVED.get(kind, frozenset()) for kind in kinds))


def kept_hooks(hooks: Mapping[int, Callable[..., Any]]) -> list[Callable[..., Any]]:
    """Those of a module's hooks that are part of the model: all but what its library registers by itself."""
    return [hook for hook in hooks.values() if getattr(hook, "__module__", None) not in _DERIVED_HOOKS]
