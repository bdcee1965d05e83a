"""The importance criteria that go by a name, DFPC's and Torch-Pruning's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch_pruning as tp

from dfpc_plugin.importance import DFPCImportance

__all__ = ["AUTO", "CRITERIA", "TAYLOR", "Criterion", "Importance"]

AUTO = "auto"
"""What stands for the criterion that `prune` chooses by itself."""

Importance = Callable[[tp.dependency.Group], torch.Tensor | None]
"""What Torch-Pruning asks for: from a group of coupled channels to one score per channel."""


@dataclass(frozen=True)
class Criterion:
    """A way to tell which channels matter.

    Attributes:
        name: How the configuration calls it.
        label: How tables and plots call it.
        build: Makes a fresh importance for Torch-Pruning; None leaves the choice to `prune`.
        random: Whether it draws random numbers, so that one cut says little.
        gradients: Whether it reads gradients of a loss, for which images are needed.
    """

    name: str
    label: str
    build: Callable[[], Importance | None]
    random: bool = False
    gradients: bool = False


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
TAYLOR = Criterion("taylor", "Taylor (TP, images)", tp.importance.GroupTaylorImportance, gradients=True)
"""Torch-Pruning's criterion that reads gradients; it is not in `CRITERIA`, as `prune` computes none."""
