"""Saliency that can be compared over several cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Anchored"]


class Anchored:
    """Scores channels anew, and scales every coupling's scores to the mean that the channels which are left had at first.

    Criteria compare couplings by what their channels are worth on average, of those that are there. Once the least of them
    are removed, the rest divide the same among fewer, and each looks as if it were worth less than before: a coupling that has
    lost some would lose more and more, up to its last ones. So the weights of couplings against each other stay those of the
    unpruned model, and what is new is the order within each.
    """

    def __init__(self, importance: Any, left: Mapping[str, Sequence[float]]) -> None:
        """Score by an importance of Torch-Pruning; `left` has the first scores of the remaining units, by coupling."""
        self.importance, self._left = importance, left

    def __call__(self, group: Any) -> Tensor | None:
        """Score the units of a coupling; None where the criterion has nothing to say."""
        scores = self.importance(group)
        before = self._left.get(group.couplings[0].name)
        if scores is None or before is None or len(before) != len(scores):
            return scores
        mean = scores.double().mean()
        return scores if not mean > 0 else scores * (torch.tensor(before, dtype=torch.float64).mean() / mean).to(scores)
