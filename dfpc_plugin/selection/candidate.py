"""A coupling that may lose units, with its saliencies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dfpc_plugin.couplings import DataFlowCoupling


@dataclass(frozen=True, eq=False)
class Candidate:
    """A coupling that is ranked, of which at least `keep` units remain.

    `units` are the remaining columns of `coupling.blocks` by increasing `saliency` (ties in their order), which is float64 on
    the CPU.
    """

    coupling: DataFlowCoupling
    units: Tensor
    saliency: Tensor
    keep: int

    @classmethod
    def ranked(cls, coupling: DataFlowCoupling, units: Tensor, saliency: Tensor, keep: int) -> Candidate:
        """Sort `units`, columns of `coupling.blocks`, by their `saliency`."""
        saliency = saliency.detach().to("cpu", torch.float64)
        order = torch.argsort(saliency, stable=True)
        return cls(coupling, units[order], saliency[order], keep)

    @property
    def free(self) -> int:
        """The number of units that may be pruned."""
        return max(0, len(self.units) - self.keep)

    def channels(self, count: int, start: int = 0) -> Tensor:
        """Numbers of the channels of `count` units by increasing saliency, starting at the one numbered `start`."""
        return self.coupling.blocks[:, self.units[start : start + count]].reshape(-1)


def keep_at_least(coupling: DataFlowCoupling, max_ratio: float, min_channels: int = 2) -> int:
    """Return the minimum number of units that a coupling keeps, at least one, if it may lose a share `max_ratio` (0 to 1).

    A unit that spans several blocks counts for `min_channels` with one channel, as each layer keeps that many; whole attention
    heads, of which at least one is kept, are not counted in channels.
    """
    each = coupling.width // coupling.channels
    floor = 1 if coupling.whole_heads else min(math.ceil(min_channels / each), coupling.channels)
    return max(1, floor, math.ceil(coupling.channels * (1 - max_ratio) - 1e-9))
