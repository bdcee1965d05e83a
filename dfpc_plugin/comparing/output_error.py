"""How far the outputs of a pruned model are from those of the unpruned one, on images or on noise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfpc_plugin.comparing.cells import CompareError
from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.progress import Phases
from dfpc_plugin.repairing import RepairSettings
from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.job import RepairJob
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.noise import on_noise
from dfpc_plugin.tracing.tree import tensors

__all__ = ["OutputError"]

_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class OutputError:
    """Measures the squared error of a pruned model's outputs, over the variance of the unpruned model's outputs.

    Attributes:
        original: The unpruned model.
        couplings: Its couplings, before any cut.
        inputs: What both models are called with.
        noise: Whether the inputs are noise, which batch norms then normalise as they normalise data.
        source: What the inputs are, in words.
        forward_fn: How the models are called, if not plainly.
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
    ) -> OutputError:
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
    ) -> OutputError:
        """Measure on images."""
        source = f"{sum(images.counts)} of the given images"
        return cls(original, couplings, images, False, source, forward_fn)

    def of(self, model: nn.Module, removed: Tensor) -> float:
        """Return the relative squared error of `model`'s outputs; what may be rounding of float32, below 1e-10, is 0.

        `removed`, `(channels,)` of bool, says which channels of the unpruned model are removed. Outputs that
        cannot be compared raise a CompareError.
        """
        with evaluating(self.original), evaluating(model), torch.no_grad():
            found = self._job(model, removed).error(self.inputs, noise=self.noise)
        if found is None:
            raise CompareError(
                f"The model's outputs on {self.source} cannot be compared: they are no tensors of numbers, or do not "
                f"differ from one input to another. Give several different inputs, labelled data, or a score."
            )
        return found if found > _ROUNDING else 0.0

    def described(self, text: str) -> OutputError:
        """The same, with something added to what the inputs are in words."""
        return dataclasses.replace(self, source=f"{self.source}{text}")

    def _job(self, model: nn.Module, removed: Tensor) -> RepairJob:
        """What measures errors for repairs."""
        kept = Kept(self.couplings, removed)
        example = self.inputs.parts[0]
        return RepairJob(model, self.original, example, RepairSettings("none"), kept, Phases(), self.forward_fn)
