"""The few numbers that say what a coupling's saliency is like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfpc_plugin.coupling import LayerCoupling
from dfpc_plugin.saliency import Saliency

__all__ = ["CouplingSummary", "ScoreRange", "layers_by_width", "summarise"]


@dataclass(frozen=True)
class ScoreRange:
    """Where the scores of some channels lie.

    Attributes:
        width: Number of channels.
        lowest: Smallest score.
        lowest_channel: Index of the first channel that has it.
        median: Median score.
        highest: Largest score.
        highest_channel: Index of the first channel that has it.
    """

    width: int
    lowest: float
    lowest_channel: int
    median: float
    highest: float
    highest_channel: int

    @classmethod
    def of(cls, scores: Tensor) -> ScoreRange:
        """Summarise a 1-D tensor of at least one score."""
        low, high = int(scores.argmin()), int(scores.argmax())
        median = float(scores.quantile(0.5))
        return cls(len(scores), float(scores[low]), low, median, float(scores[high]), high)


@dataclass(frozen=True)
class CouplingSummary:
    """One coupling, in numbers.

    Attributes:
        index: Its place in the order of the forward pass, from 1.
        coupling: Its layers.
        scores: One score per channel, summed over the feed-in layers; None if these have different widths (they are
            concatenated or split on the way), so that channels do not correspond by position.
        range: Of `scores`; of all layers' scores together where there are none.
        by_width: Where widths differ: for each width, its layers and the range of their scores together.
    """

    index: int
    coupling: LayerCoupling
    scores: Tensor | None
    range: ScoreRange
    by_width: tuple[tuple[tuple[str, ...], ScoreRange], ...] = ()

    @property
    def mixed(self) -> bool:
        """Whether the feed-in layers have different widths."""
        return self.scores is None


def summarise(saliency: Saliency) -> tuple[CouplingSummary, ...]:
    """Summarise every coupling, in the order of the forward pass."""
    return tuple(_summarise(saliency, index, coupling) for index, coupling in enumerate(saliency.couplings, start=1))


def layers_by_width(saliency: Saliency, coupling: LayerCoupling) -> dict[int, tuple[str, ...]]:
    """Group a coupling's feed-in layers by how many channels they have."""
    groups: dict[int, tuple[str, ...]] = {}
    for layer in coupling.feed_in:
        width = len(saliency[layer])
        groups[width] = (*groups.get(width, ()), layer)
    return groups


def _summarise(saliency: Saliency, index: int, coupling: LayerCoupling) -> CouplingSummary:
    groups = layers_by_width(saliency, coupling)
    if len(groups) == 1:
        scores = saliency.scores(coupling)
        return CouplingSummary(index, coupling, scores, ScoreRange.of(scores))
    ranges = tuple((layers, _pooled(saliency, layers)) for layers in groups.values())
    return CouplingSummary(index, coupling, None, _pooled(saliency, coupling.feed_in), ranges)


def _pooled(saliency: Saliency, layers: tuple[str, ...]) -> ScoreRange:
    return ScoreRange.of(torch.cat([saliency[layer] for layer in layers]))
