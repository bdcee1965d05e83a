"""Which units to cut: the lowest scores of everything that is ranked together, and never all of a coupling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.host.group import DataFlowGroup

__all__ = ["Candidate", "keep_at_least", "lowest", "rounded"]


@dataclass(frozen=True)
class Candidate:
    """A coupling that is ranked.

    Attributes:
        group: All units that it has left.
        scores: One per unit.
        keep: How many units must stay.
    """

    group: DataFlowGroup
    scores: Tensor
    keep: int

    @property
    def order(self) -> Tensor:
        """Units from the lowest score up; equal ones in their order."""
        return torch.argsort(self.scores, stable=True)


def keep_at_least(coupling: DataFlowCoupling, max_pruning_ratio: float) -> int:
    """Return how many units of a coupling a limit leaves: never none, and never a layer of one channel."""
    floor = 1 if len(coupling.blocks) > 1 or coupling.whole_heads else min(2, coupling.channels)
    return max(floor, math.ceil(coupling.channels * (1 - max_pruning_ratio) - 1e-9))


def lowest(candidates: Sequence[Candidate], count: int) -> list[int]:
    """Choose `count` units with the lowest scores among all candidates.

    What a candidate must keep is never chosen; units of others are chosen instead. With a larger `count`, everything
    that a smaller one chooses is chosen too.

    Returns:
        How many to cut from each candidate, always its lowest.
    """
    free = [candidate.order[: max(0, len(candidate.scores) - candidate.keep)] for candidate in candidates]
    scores = torch.cat([candidate.scores[own] for candidate, own in zip(candidates, free, strict=True)])
    owner = torch.cat([torch.full((len(own),), number) for number, own in enumerate(free)])
    chosen = owner[torch.argsort(scores, stable=True)[: max(0, count)]]
    return torch.bincount(chosen, minlength=len(candidates)).tolist()


def rounded(units: int, cut: int, keep: int, multiple: int | None) -> int:
    """Cut more so that a multiple stays, or less where too little would."""
    if not multiple or not cut:
        return cut
    left = (units - cut) // multiple * multiple
    left = max(left, math.ceil(keep / multiple) * multiple)
    return max(0, units - left)
