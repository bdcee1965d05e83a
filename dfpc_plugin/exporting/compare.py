"""Compare the outputs of two ways to run a model, on several batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.latency import Latency, LatencySettings
from dfpc_plugin.plain_data import to_plain
from dfpc_plugin.runtimes.call import batch_size_of, with_batch
from dfpc_plugin.runtimes.errors import ExportError
from dfpc_plugin.tracing.tree import map_tensors

Run = Callable[[ExampleInputs], Sequence[Tensor]]

_OTHER_SIZES = (1, 3)
_SEED = 0


@dataclass(frozen=True)
class Difference:
    """The difference between two ways to run a model.

    Attributes:
        largest: Largest difference of an entry of any output, over the largest absolute entry of that output.
        same_predictions: Share of the samples (pixels, for maps of classes) with the same argmax along axis one of the
            first output; None if that axis has fewer than two entries.
    """

    largest: float
    same_predictions: float | None


class MeasuredFile:
    """A base of dataclasses about a file that may have been timed beside the model, or the file, that it was made from."""

    latency: Mapping[str, Latency] | None

    @property
    def latency_ms(self) -> dict[str, float] | None:
        """Median milliseconds of one forward, by what was timed; None if not asked for."""
        return None if self.latency is None else {name: 1e3 * value.median for name, value in self.latency.items()}

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, numbers and strings."""
        content = {name: value for name, value in vars(self).items() if name != "latency"}
        conditions = next((value.conditions for value in (self.latency or {}).values()), None)
        return {**to_plain(content), "latency_ms": self.latency_ms, "latency_conditions": conditions}


def timed(
    models: Callable[[LatencySettings], Mapping[str, nn.Module]], inputs: ExampleInputs, wanted: bool | LatencySettings
) -> dict[str, Latency] | None:
    """Measure models in turns, graphs among them, which are loaded for the settings; None if latency is not wanted."""
    if not wanted:
        return None
    settings = LatencySettings() if isinstance(wanted, bool) else wanted
    return dataclasses.replace(settings, runtime="torch").measure(models(settings), inputs)


def inputs_to_check(example_inputs: ExampleInputs, dynamic_batch: bool) -> Iterator[ExampleInputs]:
    """Yield the example inputs, similar noise and its negative, and for a dynamic batch noise of other batch sizes.

    Floating-point tensors become noise of the same mean and variance; integers, which may be indices, stay.
    """
    generator = torch.Generator().manual_seed(_SEED)

    def noise(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        wide = tensor.double()
        mean, deviation = float(wide.mean()), float(wide.std(unbiased=False)) or 1.0
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.double)
        return (mean + deviation * drawn).to(tensor.dtype)

    def opposite(tensor: Tensor) -> Tensor:
        return -tensor if tensor.is_floating_point() else tensor

    yield example_inputs
    like_them = map_tensors(noise, example_inputs)
    yield like_them
    yield map_tensors(opposite, like_them)  # most branches of models depend on signs and sums
    if dynamic_batch:
        own = batch_size_of(example_inputs)
        for size in _OTHER_SIZES:
            if size != own:
                yield map_tensors(noise, with_batch(example_inputs, size))


def compare(
    reference: Callable[[ExampleInputs], Mapping[str, Tensor]],
    exported: Run,
    inputs: Iterator[ExampleInputs],
    tolerance: float,
) -> Difference:
    """Run both on all inputs.

    Raises:
        ExportError: Outputs differ in number, shape or type, or by more than `tolerance` relative to the output's
            scale.
    """
    largest, same, predictions = 0.0, 0, 0
    for given in inputs:
        wanted, got = reference(given), exported(given)
        if len(wanted) != len(got):
            raise ExportError(f"The exported model returns {len(got)} tensors where the model returns {len(wanted)}.")
        for (name, ours), theirs in zip(wanted.items(), got, strict=True):
            largest = max(largest, _difference(name, ours, theirs, tolerance))
        first, second = next(iter(wanted.values())), got[0]
        if first.dim() > 1 and first.size(1) > 1 and first.is_floating_point():
            chosen = first.argmax(1)
            same += int((chosen == second.argmax(1)).sum())
            predictions += chosen.numel()
    return Difference(largest, same / predictions if predictions else None)


def _difference(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> float:
    """Largest difference of one output over its scale; entries that are the same infinity or both NaN do not differ.

    Raises ExportError if it exceeds `tolerance`, or if shapes or types differ.
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise ExportError(
            f"'{name}' of the exported model is {theirs.dtype} of shape {tuple(theirs.shape)} where the model "
            f"returns {ours.dtype} of shape {tuple(ours.shape)}."
        )
    if not ours.numel():
        return 0.0
    wide = torch.complex128 if ours.is_complex() else torch.float64
    a, b = ours.to(wide), theirs.to(wide)
    same = (a == b) | (a.isnan() & b.isnan())
    apart = (a - b).abs().masked_fill(same, 0.0)
    scale = float(a[a.isfinite()].abs().max()) if bool(a.isfinite().any()) else 0.0
    worst = float(apart.max())
    relative = worst / scale if worst and scale else (math.inf if worst else 0.0)
    if not relative <= tolerance:
        raise ExportError(
            f"'{name}' of the exported model is {relative:.2g} of its scale away from what the model returns, "
            f"and {tolerance:.2g} is allowed; largest difference {worst:.3g}, largest entry {scale:.3g}."
        )
    return relative
