"""Score a model."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import nn

from dfpc_plugin.inputs import ExampleInputs, shapes_of
from dfpc_plugin.saliency import Ranking, Saliency, bgsc

__all__ = ["ModelScore", "score_model"]


@dataclass(frozen=True)
class ModelScore:
    """The saliency of a model, and how it came about.

    Attributes:
        model: Name of the model.
        pretrained: Whether its weights were trained; otherwise they are random.
        ranking: How feed-out layers were weighted.
        input_shapes: Shapes of the example inputs.
        saliency: The scores.
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
