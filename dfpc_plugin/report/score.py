"""Score a model by its name."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from dfpc_plugin.errors import DFPCError, ExampleInputsError
from dfpc_plugin.models import ScoringPart, create_model, example_inputs, scoring_part
from dfpc_plugin.saliency import Ranking, Saliency, bgsc

__all__ = ["ModelScore", "score_model"]


@dataclass(frozen=True)
class ModelScore:
    """The saliency of a model, and how it came about.

    Attributes:
        model: Name of the model.
        pretrained: Whether its weights were trained; otherwise they are random.
        ranking: How feed-out layers were weighted.
        part: What of the model was scored.
        input_shapes: Shapes of the example inputs.
        saliency: The scores.
        seconds: What scoring took, without building the model.
    """

    model: str
    pretrained: bool
    ranking: Ranking
    part: ScoringPart
    input_shapes: tuple[tuple[int, ...], ...]
    saliency: Saliency
    seconds: float

    @property
    def channels(self) -> int:
        """Number of channels scored, over all layers."""
        return sum(len(scores) for scores in self.saliency.values())


def score_model(
    name: str, *, pretrained: bool = False, ranking: Ranking = "published", size: int | None = None
) -> ModelScore:
    """Build a model and score it.

    Args:
        name: A timm name, or `torchvision/NAME`.
        pretrained: Load trained weights; otherwise scores are those of random ones.
        ranking: `published` or `relative`, as for `bgsc`.
        size: Height and width of the input in pixels, instead of the model's own.

    Raises:
        UnknownModelError: No model has that name.
        WeightsError: The pretrained weights cannot be had.
        UnsupportedOperatorError: Operators without a rule.
        ExampleInputsError: The model refuses images of that `size`.
    """
    model = create_model(name, pretrained=pretrained)
    part = scoring_part(model)
    inputs = example_inputs(model, name, size=size)
    start = time.perf_counter()
    try:
        saliency = bgsc(model, inputs, ranking=ranking, forward_fn=part.forward)
    except DFPCError:
        raise
    except Exception as error:
        if size is None:
            raise
        raise ExampleInputsError(f"'{name}' does not take images of {size} pixels: {error}") from error
    seconds = time.perf_counter() - start
    tensors = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    return ModelScore(name, pretrained, ranking, part, shapes, saliency, seconds)
