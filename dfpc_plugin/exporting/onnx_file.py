"""`export_onnx`: export a model to an ONNX file, and check that onnxruntime computes the same."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.exporting.compare import Difference, MeasuredFile, compare, inputs_to_check, timed
from dfpc_plugin.files import require_writable, write_bytes
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.latency import Latency, LatencySettings
from dfpc_plugin.require import require
from dfpc_plugin.runtimes import RUNTIMES
from dfpc_plugin.runtimes.call import FlatCall
from dfpc_plugin.runtimes.graphs import OnnxRuntimeModel
from dfpc_plugin.runtimes.to_onnx import Conversion, chosen_exporters, opset_of, require_exporters
from dfpc_plugin.wrappers import HoldsModel, as_model

Exporter = Literal["auto", "dynamo", "torchscript"]


@dataclass(frozen=True)
class OnnxExport(MeasuredFile):
    """An ONNX file and its measurements.

    Attributes:
        path: The file.
        opset: Version of ONNX's operators that it needs.
        exporter: The exporter of PyTorch that wrote it: "dynamo", the current one, or "torchscript", the older one.
        dynamic_batch: Whether it takes batches of any size.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        bytes: Size of the file.
        max_difference: Largest difference of an output from the model's, over the largest entry of that output, on all
            batches that were tried; None if it was not checked.
        same_predictions: Share of the samples with the same largest output, 0 to 1; None if it was not checked or the
            first output is not a row of scores.
        latency: Latency in "onnxruntime" and "torch", measured in turns; None if not asked for.
        notes: Remarks for the user, in sentences.
    """

    path: Path
    opset: int
    exporter: str
    dynamic_batch: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bytes: int
    max_difference: float | None = None
    same_predictions: float | None = None
    latency: Mapping[str, Latency] | None = None
    notes: tuple[str, ...] = ()


@checks_arguments
def export_onnx(
    model: nn.Module | HoldsModel,
    example_inputs: ExampleInputs,
    path: str | Path,
    *,
    opset: int | None = None,
    dynamic_batch: bool = True,
    check: bool = True,
    tolerance: float = 1e-4,
    latency: bool | LatencySettings = False,
    exporter: Exporter = "auto",
) -> OnnxExport:
    """Export `model`, in evaluation mode, to an ONNX file, and check that onnxruntime computes the same.

    A copy of the model on the CPU is exported; the model is not changed. If the export fails, no file is written, and
    an existing file stays.

    Args:
        model: Any model, pruned or not, or the result of `prune`.
        example_inputs: What it is called with. Their tensors become the file's inputs; all other values are fixed in
            the file.
        path: The file to write.
        opset: Version of ONNX's operators; None for the exporter's default.
        dynamic_batch: Let axis zero of every input have any length.
        check: Compare outputs with the model's in onnxruntime: on the example inputs, on similar noise and its
            negative, and for a dynamic batch also on batches of other sizes.
        tolerance: Largest allowed difference of an output, over the largest absolute entry of that output.
        latency: Measure both, side by side; True for the defaults, or the settings.
        exporter: The exporter of PyTorch to use. By default the current one, "dynamo", and the older "torchscript" if
            that fails or this version of PyTorch lacks it; `OnnxExport.exporter` and `notes` say so.

    Returns:
        The file and its measurements.

    Raises:
        ExportError: The model cannot be exported, or the outputs differ; the message says where or by how much.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
        OutputError: `path` cannot be written.
        ExampleInputsError: The model cannot be exported with these inputs.
        LatencyError: The settings are invalid.
    """
    path = Path(path)
    require_writable(path)
    chosen = chosen_exporters(exporter)
    require_exporters(chosen)
    if check or latency:
        require("onnxruntime", "onnxruntime", "export")
    with torch.inference_mode(False), generators_kept():
        conversion = Conversion(as_model(model), example_inputs, opset, dynamic_batch)
        compared = functools.partial(_compared, conversion, dynamic_batch, tolerance)
        found = conversion.first_that_works(chosen, compared if check else lambda content: None)
        measured = timed(functools.partial(_models, conversion.call, found.content), conversion.inputs, latency)
    described = require("onnx", "onnx", "export").load_model_from_string(found.content)
    write_bytes(path, found.content)
    inputs, outputs = (tuple(value.name for value in end) for end in (described.graph.input, described.graph.output))
    said = opset_of(described), found.exporter, dynamic_batch
    largest = None if found.checked is None else found.checked.largest
    same = None if found.checked is None else found.checked.same_predictions
    return OnnxExport(path, *said, inputs, outputs, len(found.content), largest, same, measured, found.notes)


def _compared(conversion: Conversion, dynamic_batch: bool, tolerance: float, content: bytes) -> Difference:
    """Compare a file with the model in ONNX Runtime; raises ExportError if outputs differ."""
    graph = OnnxRuntimeModel(content, conversion.call.input_names)
    inputs = inputs_to_check(conversion.inputs, dynamic_batch)
    return compare(conversion.call.outputs, graph.outputs, inputs, tolerance)


def _models(call: FlatCall, content: bytes, settings: LatencySettings) -> dict[str, nn.Module]:
    """The model and the file, with equal threads: in ONNX Runtime, and in the runtime of the settings."""
    models: dict[str, nn.Module] = {"torch": call.model}
    for name in dict.fromkeys(("onnxruntime", settings.runtime)):
        load = RUNTIMES[name].load
        if load is not None:
            models[name] = load(content, call.input_names, settings.used_threads)
    return models
