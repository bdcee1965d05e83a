"""`RepairJob`: the models, settings and results of one repair; and `Best`: its best state so far."""

from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.progress import Phases
from dfpc_plugin.repairing.batch_norms import MomentsSeen, NoiseAsData
from dfpc_plugin.repairing.inputs import Batches, Calibration
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.moments import NoiseStatistics
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
        noise: Statistics of the original on noise, shared by several repairs.
        output_error: Error of the model's output, before and after.
        measured_on: The inputs that this error is measured on, in words.
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
    noise: NoiseStatistics | None = None
    output_error: tuple[float, float] | None = None
    measured_on: str = ""
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
    """The floating-point outputs of a model; what its forward draws at random is the same at every call."""
    with generators_kept():
        torch.manual_seed(0)
        result = run_forward(model, batch, forward_fn)
    return [tensor.float() for tensor in returned_tensors(result) if tensor.is_floating_point()]


class Best:
    """The state of a job's model with the smallest output error.

    Attributes:
        error: The error in that state. None if outputs cannot be compared; the latest state then counts as the best.
    """

    def __init__(self, job: RepairJob, inputs: Batches, source: str, *, noise: bool = False) -> None:
        """Begin with the model as it is; `inputs` are from a `source`, which the user is told, and are data or `noise`."""
        job.measured_on = source
        self._job, self._inputs, self._noise = job, inputs, noise
        self.error = self._first_error = job.error(inputs, noise=noise)
        self._state = copy.deepcopy(job.model)

    @property
    def errors(self) -> tuple[float, float] | None:
        """The error at the beginning and now; None if outputs cannot be compared, or are not finite."""
        first, now = self._first_error, self.error
        return (first, now) if first is not None and now is not None and math.isfinite(first + now) else None

    def keep(self, name: str) -> bool:
        """Keep the repaired model and return True, or restore the best state and return False if its outputs are worse.

        `name` is that of the repair, for the note that the user then gets.
        """
        job, error = self._job, self._job.error(self._inputs, noise=self._noise)
        if error is not None and self.error is not None and not (error <= self.error or math.isnan(self.error)):
            copy_state(self._state, job.model)
            job.notes.append(
                f"{name} was taken back: on {job.measured_on}, the output's error is {error:.2%} with it and "
                f"{self.error:.2%} without."
            )
            return False
        self.error, self._state = error, copy.deepcopy(job.model)
        return True


def copy_state(source: nn.Module, target: nn.Module) -> None:
    """Copy the parameters and buffers of a model into another of the same shapes."""
    with torch.no_grad():
        for mine, new in zip(target.parameters(), source.parameters(), strict=True):
            mine.data.copy_(new)
        for own, value in zip(target.buffers(), source.buffers(), strict=True):
            if not torch.equal(own, value):
                own.copy_(value)
