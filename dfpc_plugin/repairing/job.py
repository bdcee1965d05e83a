"""`RepairJob`: the models, settings and results of one repair."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.progress import Phases
from dfpc_plugin.repairing.calibration import Calibration
from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.norm_moments import MomentsSeen, NoiseAsData
from dfpc_plugin.repairing.settings import RepairSettings
from dfpc_plugin.tracing.tree import returned_tensors


@dataclass(eq=False)
class RepairJob:
    """A repair.

    Attributes:
        model: The pruned model.
        original: The model it was pruned from.
        example_inputs: What both are called with.
        settings: The settings.
        kept: Which channels remain.
        phases: Times the phases, and reports progress.
        forward_fn: Called as `forward_fn(model, inputs)` instead of the models.
        calibration: Inputs shared by several repairs.
        output_error: Error of the model's output, before and after.
        notes: What the user should know.
    """

    model: nn.Module
    original: nn.Module
    example_inputs: ExampleInputs
    settings: RepairSettings
    kept: Kept
    phases: Phases
    forward_fn: ForwardFunction | None = None
    calibration: Calibration | None = None
    output_error: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)

    def error(self, batches: Batches, *, noise: bool = False) -> float | None:
        """Squared error of the model's output over its variance; None if outputs cannot be compared.

        With `noise`, batch norms normalise the batches, which are noise, as they would normalise data.
        """
        wrong = squares = 0.0
        count, sums = 0, [torch.zeros(())]
        for batch in batches.parts:
            found, wanted = self._outputs(batch, noise)
            if [t.shape for t in found] != [t.shape for t in wanted] or any(not other.dim() for other in wanted):
                return None
            wrong += sum(float((mine - other).square().sum()) for mine, other in zip(found, wanted, strict=True))
            squares += sum(float(other.square().sum()) for other in wanted)
            means = [other.sum(0).double() for other in wanted]
            if count and [t.shape for t in means] != [t.shape for t in sums]:
                return None
            sums = [a + b for a, b in zip(sums, means, strict=True)] if count else means
            count += max((len(other) for other in wanted), default=1)
        total = squares - sum(float(own.square().sum()) for own in sums) / max(1, count)
        return wrong / total if total > 1e-9 * squares else None

    def _outputs(self, batch: ExampleInputs, noise: bool) -> tuple[list[Tensor], list[Tensor]]:
        with MomentsSeen() if noise else contextlib.nullcontext() as seen:
            wanted = _outputs(self.original, batch, self.forward_fn)
        before = {} if seen is None else seen.by_name(self.original)
        with NoiseAsData(self.model, self.original, before, self.kept) if noise else contextlib.nullcontext():
            return _outputs(self.model, batch, self.forward_fn), wanted


def _outputs(model: nn.Module, batch: ExampleInputs, forward_fn: ForwardFunction | None) -> list[Tensor]:
    """The floating-point outputs of a model."""
    result = run_forward(model, batch, forward_fn)
    return [tensor.float() for tensor in returned_tensors(result) if tensor.is_floating_point()]
