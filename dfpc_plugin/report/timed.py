"""Build a model by its name, and time what is done with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor, nn

from dfpc_plugin.errors import DFPCError, ExampleInputsError
from dfpc_plugin.models import create_model, example_inputs, load_weights

__all__ = ["TimedRun", "run_timed"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class TimedRun(Generic[Result]):
    """What came of a model, and how.

    Attributes:
        model: The model that was built.
        input_shapes: Shapes of the example inputs.
        result: What the work returned.
        seconds: What the work took, without building the model.
    """

    model: nn.Module
    input_shapes: tuple[tuple[int, ...], ...]
    result: Result
    seconds: float


def run_timed(
    name: str,
    work: Callable[[nn.Module, Tensor | tuple[Tensor, ...]], Result],
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    size: int | None = None,
) -> TimedRun[Result]:
    """Build a model and call `work(model, example_inputs)`.

    Args:
        name: A name as `build_model` takes it.
        work: What to do with the model.
        pretrained: Load trained weights; otherwise they are random.
        weights: Load weights from this file.
        size: Height and width of the input in pixels, instead of the model's own.

    Raises:
        UnknownModelError: No model has that name.
        WeightsError: The weights cannot be had.
        DFPCError: Whatever of its kind `work` raises.
        ExampleInputsError: Something else went wrong at a `size` that is not the model's own.
    """
    model = create_model(name, pretrained=pretrained)
    if weights is not None:
        load_weights(model, weights)
    inputs = example_inputs(model, name, size=size)
    start = time.perf_counter()
    try:
        result = work(model, inputs)
    except DFPCError:
        raise
    except Exception as error:
        if size is None:
            raise
        raise ExampleInputsError(f"'{name}' does not take images of {size} pixels: {error}") from error
    seconds = time.perf_counter() - start
    tensors = (inputs,) if isinstance(inputs, Tensor) else inputs
    return TimedRun(model, tuple(tuple(tensor.shape) for tensor in tensors), result, seconds)
