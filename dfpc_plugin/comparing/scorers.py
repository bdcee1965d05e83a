"""What scores the models of a comparison: labelled data, the user's own score, or the error of the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from dfpc_plugin.comparing.cells import CompareError
from dfpc_plugin.comparing.metrics import METRICS, Metric
from dfpc_plugin.comparing.output_error import OutputError
from dfpc_plugin.couplings.outputs import channels_of_record
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.progress import Progress

__all__ = ["AccuracyScorer", "ErrorScorer", "OwnScorer", "Scorer", "standard_error"]

Removed = Mapping[str, Sequence[int]]
"""Which outputs of each layer were removed, as `PruneResult.removed` has them."""


class Scorer(Protocol):
    """Scores models."""

    @property
    def metric(self) -> Metric:
        """What the figure is."""
        ...

    @property
    def source(self) -> str:
        """What it is measured on, in words."""
        ...

    def of(self, model: nn.Module, removed: Removed) -> tuple[float, float | None]:
        """Return the figure of a model and, where it is an average over images, its standard error."""
        ...


@dataclass(frozen=True)
class AccuracyScorer:
    """Share of labelled images that are classified right.

    Attributes:
        data: A data set of pairs (image, label).
        batch_size: Images at a time.
        workers: Processes that read images.
        progress: What to call with the share of the images that are done.
    """

    data: Any
    batch_size: int
    workers: int
    progress: Progress | None
    metric: Metric = METRICS["accuracy"]

    @property
    def source(self) -> str:
        """How many images there are, and of what."""
        name = getattr(self.data, "source", None)
        return f"{len(self.data)} labelled images" + (f" of {name}" if isinstance(name, str) else "")

    def of(self, model: nn.Module, removed: Removed) -> tuple[float, float | None]:
        """Evaluate a model, which stays as it is."""
        found = evaluate_model(model, self.data, self.batch_size, self.workers, self.progress)
        accuracy = round(found.top1 * found.count / 100) / found.count  # top1 / 100 can be 0.7929999999999999
        return accuracy, standard_error(accuracy, found.count)


@dataclass(frozen=True)
class OwnScorer:
    """The user's own function.

    Attributes:
        score: From a model in evaluation mode to a number, more is better.
    """

    score: Callable[[nn.Module], Any]
    metric: Metric = METRICS["score"]

    @property
    def source(self) -> str:
        """The name of the function."""
        return getattr(self.score, "__name__", type(self.score).__name__)

    def of(self, model: nn.Module, removed: Removed) -> tuple[float, float | None]:
        """Call the function on a model, which stays as it is; raise a CompareError if it returns no number."""
        with evaluating(model, hooks=False):
            found = self.score(model)
        try:
            value = float(found)
        except (TypeError, ValueError):
            value = math.nan
        if math.isnan(value):
            raise CompareError(f"score returned {found!r}, which is no number; return a number, more is better.")
        return value, None


@dataclass(frozen=True)
class ErrorScorer:
    """The relative squared error of the outputs.

    Attributes:
        measure: Measures it.
    """

    measure: OutputError
    metric: Metric = METRICS["output_error"]

    @property
    def source(self) -> str:
        """What it is measured on."""
        return self.measure.source

    def of(self, model: nn.Module, removed: Removed) -> tuple[float, float | None]:
        """Measure a model, which stays as it is."""
        return self.measure.of(model, channels_of_record(self.measure.couplings, removed)), None


def standard_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent images: sqrt(p (1 - p) / n)."""
    return math.sqrt(share * (1 - share) / count)
