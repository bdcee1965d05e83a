"""`METHODS`: the registry of repair methods, and the properties of each that other parts need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dfpc_plugin.registry import Registry
from dfpc_plugin.repairing.report import LayerRepair


@dataclass(frozen=True)
class RepairMethod:
    """A way to repair a pruned model.

    Attributes:
        name: In Python, in recipes, on the command line and in reports.
        repair: Changes the weights of a `RepairJob`'s model in place, and reports on each layer.
        summary: What it does and what it costs, in one line, for help texts and the documentation.
        images: Whether it uses no images, generated images, or the user's images. They come from the job's
            `calibration`.
        ridge: The default ridge towards the old weights.
        anticipated: Whether it lets the remaining channels compensate for removed ones, by covariances. `prune` then
            ranks by the error after this compensation.
    """

    name: str
    repair: Callable[[Any], list[LayerRepair]]
    summary: str
    images: Literal["none", "made", "given"] = "none"
    ridge: float = 0.0
    anticipated: bool = False

    @property
    def by_images(self) -> bool:
        """Whether it uses images, generated or given, which takes minutes."""
        return self.images != "none"


METHODS: Registry[RepairMethod] = Registry("method")
"""Every method by name; `METHODS.register(RepairMethod(...))` adds one. Built-in ones are in `repairing/methods.py`."""
