"""`METHODS`: the registry of repair methods, and all that other parts need to know of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dfpc_plugin.registry import Registry
from dfpc_plugin.repairing.report import LayerRepair

__all__ = ["METHODS", "RepairMethod"]


@dataclass(frozen=True)
class RepairMethod:
    """A way to repair a pruned model.

    Attributes:
        name: In Python, in recipes, on the command line and in reports.
        repair: Changes the weights of the model of a `RepairJob` in place, and says of each layer what was done.
        summary: What it does and takes, in one line, for help texts and the documentation.
        images: Whether it looks at no images, at images that are made from the model, or at images that the user gives. The
            job's `calibration` has them.
        ridge: How strongly weights are held to what they were where the user does not say.
        anticipated: Whether it lets the remaining channels compensate for removed ones, by covariances: `prune` then ranks by
            the error that is left after that.
    """

    name: str
    repair: Callable[[Any], list[LayerRepair]]
    summary: str
    images: Literal["none", "made", "given"] = "none"
    ridge: float = 0.0
    anticipated: bool = False

    @property
    def by_images(self) -> bool:
        """Whether it looks at images, made or given, which takes minutes."""
        return self.images != "none"


METHODS: Registry[RepairMethod] = Registry("method")
"""Every method by name. `METHODS.register(RepairMethod(...))` adds one; `repairing/methods.py` has those of this package."""
