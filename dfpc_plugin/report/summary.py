"""Score a model, and the few numbers that say what a coupling's saliency is like."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfpc_plugin.inputs import ExampleInputs, shapes_of
from dfpc_plugin.saliency import LayerCoupling, Ranking, Saliency, bgsc


@dataclass(frozen=True)
class ModelScore:
    """The saliency of a model, and how it came about.

    Attributes:
        pretrained: Whether its weights were trained; otherwise they are random.
        seconds: What scoring took, without building the model.
    """

    model: str
    pretrained: bool
    ranking: Ranking
    input_shapes: tuple[tuple[int, ...], ...]
    saliency: Saliency
    seconds: float

    @property
    def channels(self) -> int:
        """Number of channels scored, over all layers."""
        return sum(len(scores) for scores in self.saliency.values())


def score_model(
    name: str, model: nn.Module, inputs: ExampleInputs, *, ranking: Ranking = "output", trained: bool = False
) -> ModelScore:
    """Score a model, as `bgsc` does, and time it; `name` and `trained` are for tables."""
    start = time.perf_counter()
    saliency = bgsc(model, inputs, ranking=ranking)
    return ModelScore(name, trained, ranking, shapes_of(inputs), saliency, time.perf_counter() - start)


@dataclass(frozen=True)
class ScoreRange:
    """Where the scores of some channels lie; of several channels with the same score, the first is named."""

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


def _summarise(saliency: Saliency, index: int, coupling: LayerCoupling) -> CouplingSummary:
    groups: dict[int, tuple[str, ...]] = {}
    for layer in coupling.feed_in:
        width = len(saliency[layer])
        groups[width] = (*groups.get(width, ()), layer)
    if len(groups) == 1:
        scores = saliency.scores(coupling)
        return CouplingSummary(index, coupling, scores, ScoreRange.of(scores))
    ranges = tuple((layers, _pooled(saliency, layers)) for layers in groups.values())
    return CouplingSummary(index, coupling, None, _pooled(saliency, coupling.feed_in), ranges)


def _pooled(saliency: Saliency, layers: tuple[str, ...]) -> ScoreRange:
    return ScoreRange.of(torch.cat([saliency[layer] for layer in layers]))
