"""What scores the models of a comparison: labelled data, the user's own score, or the error of the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.comparing.cells import METRICS, CompareError, Metric
from dfpc_plugin.comparing.digest import digest_of_images, digest_of_score
from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.couplings.outputs import channels_of_record
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.progress import Phases, Progress
from dfpc_plugin.repairing import RepairSettings
from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.job import RepairJob
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.noise import on_noise
from dfpc_plugin.tracing.tree import tensors

_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class RelativeError:
    """Measures the squared error of a pruned model's outputs, over the variance of the unpruned model's outputs.

    Attributes:
        couplings: Couplings of the unpruned model.
        noise: Whether the inputs are noise, which batch norms then normalise as they normalise data.
        source: What the inputs are, in words.
    """

    original: nn.Module
    couplings: CouplingMap
    inputs: Batches
    noise: bool
    source: str
    forward_fn: ForwardFunction | None = None

    @classmethod
    def on_noise(
        cls,
        original: nn.Module,
        couplings: CouplingMap,
        example_inputs: ExampleInputs,
        forward_fn: ForwardFunction | None = None,
        seed: int = 0,
    ) -> RelativeError:
        """Measure on noise with the spectrum of photographs; on the example inputs where the model takes no images."""

        def taken(noise: ExampleInputs | None) -> ExampleInputs | None:
            if noise is not None:
                with evaluating(original), torch.no_grad():
                    run_forward(original, noise, forward_fn)  # raises where the model does not take so many images
            return noise

        noise = on_noise(example_inputs, seed, taken)[0]
        if noise is None:
            return cls(original, couplings, Batches([example_inputs]), False, "the example inputs", forward_fn)
        source = f"{len(tensors(noise)[0])} images of noise"
        return cls(original, couplings, Batches([noise]), True, source, forward_fn)

    @classmethod
    def on_images(
        cls, original: nn.Module, couplings: CouplingMap, images: Batches, forward_fn: ForwardFunction | None = None
    ) -> RelativeError:
        """Measure on images."""
        source = f"{sum(images.counts)} of the given images"
        return cls(original, couplings, images, False, source, forward_fn)

    def of(self, model: nn.Module, removed: Tensor) -> float:
        """Return the relative squared error of `model`'s outputs; what may be rounding of float32, below 1e-10, is 0.

        `removed`, `(channels,)` of bool, says which channels of the unpruned model are removed. Outputs that
        cannot be compared raise a CompareError.
        """
        with evaluating(self.original), evaluating(model), torch.no_grad():
            kept, example = Kept(self.couplings, removed), self.inputs.parts[0]
            job = RepairJob(model, self.original, example, RepairSettings("none"), kept, Phases(), self.forward_fn)
            found = job.error(self.inputs, noise=self.noise)
        if found is None:
            raise CompareError(
                f"The model's outputs on {self.source} cannot be compared: they are no tensors of numbers, or do not "
                f"differ from one input to another. Give several different inputs, labelled data, or a score."
            )
        return found if found > _ROUNDING else 0.0


Removed = Mapping[str, Sequence[int]]
"""Which outputs of each layer were removed, as `PruneResult.removed` has them."""


@dataclass(frozen=True)
class Scorer:
    """What models are scored by.

    Attributes:
        source: What the figure is measured on, in words.
        of: From a model, which stays as it is, and what was removed from it, to its figure and, where that is an average over
            images, its standard error.
        digest: A digest of the images or of the user's function.
    """

    metric: Metric
    source: str
    of: Callable[[nn.Module, Removed], tuple[float, float | None]]
    digest: str = ""


def accuracy_scorer(data: Any, batch_size: int, workers: int, progress: Progress | None) -> Scorer:
    """Score by the share of labelled images, of a data set or a DataLoader of pairs, that are classified right."""

    def accuracy(model: nn.Module, removed: Removed) -> tuple[float, float | None]:
        found = evaluate_model(model, data, batch_size, workers, progress)
        share = round(found.top1 * found.count / 100) / found.count  # top1 / 100 can be 0.7929999999999999
        return share, standard_error(share, found.count)

    images = getattr(data, "dataset", data)  # of a DataLoader
    name = getattr(images, "source", None)
    count = f"{len(images)} " if hasattr(images, "__len__") else ""  # a stream has no length
    return Scorer(
        METRICS["accuracy"], f"{count}labelled images" + f" of {name}" * isinstance(name, str), accuracy,
        digest_of_images(data),
    )  # fmt: skip


def own_scorer(score: Callable[[nn.Module], Any]) -> Scorer:
    """Score by the user's own function; a CompareError where it returns no number."""

    def number(model: nn.Module, removed: Removed) -> tuple[float, float | None]:
        with evaluating(model, hooks=False):
            found = score(model)
        try:
            value = float(found)
        except (TypeError, ValueError):
            value = math.nan
        if math.isnan(value):
            raise CompareError(f"score returned {found!r}, which is no number; return a number, more is better.")
        return value, None

    return Scorer(METRICS["score"], getattr(score, "__name__", type(score).__name__), number, digest_of_score(score))


def error_scorer(measure: RelativeError, source: str) -> Scorer:
    """Score by the relative squared error of the outputs."""

    def error(model: nn.Module, removed: Removed) -> tuple[float, float | None]:
        return measure.of(model, channels_of_record(measure.couplings, removed)), None

    return Scorer(METRICS["output_error"], source, error)


def standard_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent images: sqrt(p (1 - p) / n)."""
    return math.sqrt(share * (1 - share) / count)
