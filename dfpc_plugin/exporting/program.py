"""`export_program`: export a model to a `.pt2` file of `torch.export`, and check that it computes the same."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.exporting.compare import compare, inputs_to_check
from dfpc_plugin.files import require_writable, write_bytes
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.inputs import ExampleInputs, as_call, fresh
from dfpc_plugin.plain_data import to_plain
from dfpc_plugin.runtimes.call import FlatCall, batch_size_of, on_cpu, with_batch
from dfpc_plugin.runtimes.errors import ExportError, advice_on_batch, reason_of
from dfpc_plugin.runtimes.exporters import EXPORTING, heard
from dfpc_plugin.tracing.tree import tensors
from dfpc_plugin.wrappers import HoldsModel


@dataclass(frozen=True)
class ProgramExport:
    """A `.pt2` file and its measurements. `torch.export.load(path).module()` runs it, without the model's code.

    Attributes:
        path: The file.
        dynamic_batch: Whether it takes batches of any size.
        bytes: Size of the file.
        max_difference: Largest difference of an output from the model's, over the largest entry of that output, on all
            batches that were tried; None if it was not checked.
        same_predictions: Share of the samples with the same largest output, 0 to 1; None if it was not checked or the
            first output is not a row of scores.
    """

    path: Path
    dynamic_batch: bool
    bytes: int
    max_difference: float | None = None
    same_predictions: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, numbers and strings."""
        return to_plain(self)


@checks_arguments
def export_program(
    model: nn.Module | HoldsModel,
    example_inputs: ExampleInputs,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    check: bool = True,
    tolerance: float = 1e-4,
) -> ProgramExport:
    """Export `model`, in evaluation mode, as a program of `torch.export`, and check the file.

    A copy of the model on the CPU is exported; the model is not changed. If the export fails, no file is written, and
    an existing file stays.

    Args:
        model: Any model, pruned or not, or the result of `prune`.
        example_inputs: What the model is called with; the program takes the same nest of arguments.
        path: The file to write; PyTorch requires the ending .pt2.
        dynamic_batch: Let axis zero of every input have any length.
        check: Compare outputs with the model's, as `export_onnx` does.
        tolerance: Largest allowed difference of an output, over the largest absolute entry of that output.

    Returns:
        The file and its measurements.

    Raises:
        ExportError: The model cannot be exported, or the outputs differ; the message says where or by how much.
        OutputError: `path` cannot be written.
        ExampleInputsError: The model cannot be exported with these inputs.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ExportError(f"Cannot write '{path}': torch.export.load wants a name that ends in .pt2.")
    require_writable(path)
    with torch.inference_mode(False), generators_kept():
        copied, inputs = on_cpu(model, example_inputs)
        call = FlatCall(copied, inputs)
        call.outputs(inputs)  # if the model cannot run, its own error says more than an exporter's
        content = _content(copied, inputs, dynamic_batch)
        difference = None
        if check:
            program = _loaded(content)
            difference = compare(call.outputs, program, inputs_to_check(inputs, dynamic_batch), tolerance)
    write_bytes(path, content)
    if difference is None:
        return ProgramExport(path, dynamic_batch, len(content))
    return ProgramExport(path, dynamic_batch, len(content), difference.largest, difference.same_predictions)


def _content(model: nn.Module, inputs: ExampleInputs, dynamic_batch: bool) -> bytes:
    """The bytes of the file; raises ExportError if torch.export cannot follow the model."""
    if dynamic_batch and batch_size_of(inputs) < 2:
        inputs = with_batch(inputs, 2)  # torch.export treats a length of one as a constant
    args, kwargs = as_call(fresh(inputs))
    shapes = None
    if dynamic_batch:  # a nest like the arguments, by the forward's parameters, with axis zero of every tensor marked
        axes = {0: torch.export.Dim("batch")}
        given = dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
        shapes = tree_map(lambda value: axes if isinstance(value, Tensor) else None, given)
    buffer = io.BytesIO()
    try:
        with EXPORTING, heard(), torch.no_grad():
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
            torch.export.save(program, buffer)
    except Exception as error:  # the model's own code can raise anything
        reason = reason_of(error, model)
        advice = advice_on_batch(reason, dynamic_batch)
        raise ExportError(f"torch.export cannot follow the model: {reason}.{advice}") from error
    return buffer.getvalue()


def _loaded(content: bytes) -> Callable[[ExampleInputs], tuple[Tensor, ...]]:
    """Load the program; return a function that runs it on example inputs."""
    with EXPORTING:
        program = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: ExampleInputs) -> tuple[Tensor, ...]:
        args, kwargs = as_call(fresh(inputs))
        try:
            with torch.no_grad():
                return tuple(tensor.detach() for tensor in tensors(program(*args, **kwargs)))
        except Exception as error:  # guards on shapes raise AssertionError, operators RuntimeError
            raise ExportError(f"The exported program cannot run: {error}") from error

    return run
