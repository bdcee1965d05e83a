"""Score a model by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dfpc_plugin.report.timed import run_timed
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
    name: str,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    ranking: Ranking = "expected",
    size: int | None = None,
) -> ModelScore:
    """Build a model and score it.

    Args:
        name: A name as `build_model` takes it.
        pretrained: Load trained weights; otherwise scores are those of random ones.
        weights: Load weights from this file.
        ranking: As for `bgsc`.
        size: Height and width of the input in pixels, instead of the model's own.

    Raises:
        UnknownModelError: No model has that name.
        WeightsError: The weights cannot be had.
        UnsupportedOperatorError: Operators without a rule.
        ExampleInputsError: The model refuses images of that `size`.
    """
    run = run_timed(
        name,
        lambda model, inputs: bgsc(model, inputs, ranking=ranking),
        pretrained=pretrained,
        weights=weights,
        size=size,
    )
    return ModelScore(name, pretrained or weights is not None, ranking, run.input_shapes, run.result, run.seconds)
