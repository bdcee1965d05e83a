"""`export_onnx`: a model in, an ONNX file that onnxruntime was seen to run like it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dfpc_plugin.exporting.compare import Difference, compare, inputs_to_check
from dfpc_plugin.files import require_writable, write_bytes
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.latency import Latency, LatencySettings
from dfpc_plugin.option_names import checks_option_names
from dfpc_plugin.plain_data import to_plain
from dfpc_plugin.require import require
from dfpc_plugin.runtimes import RUNTIMES
from dfpc_plugin.runtimes.call import FlatCall
from dfpc_plugin.runtimes.graphs import OnnxRuntimeModel
from dfpc_plugin.runtimes.to_onnx import Conversion, chosen_exporters, opset_of, require_exporters
from dfpc_plugin.wrappers import HoldsModel, as_model

__all__ = ["OnnxExport", "export_onnx"]

Exporter = Literal["auto", "dynamo", "torchscript"]


@dataclass(frozen=True)
class OnnxExport:
    """An ONNX file, and what is known of it.

    Attributes:
        path: The file.
        opset: Version of ONNX's operators that it needs.
        exporter: Which of PyTorch's exporters has written it: "dynamo", the current one, or "torchscript",
            the older one.
        dynamic_batch: Whether it takes batches of any size.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        bytes: Size of the file.
        max_difference: Largest difference of an output from the model's, over the largest entry of that
            output, on every batch that was tried; None if it was not checked.
        same_predictions: Share of the samples whose largest output is the same, 0 to 1; None if it was not
            checked or the first output is no row of scores.
        latency: Measured time of one forward in "onnxruntime" and in "torch", which took turns; None if not
            asked for.
        notes: What a user should know and did not ask for.
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

    @property
    def latency_ms(self) -> dict[str, float] | None:
        """Median milliseconds of one forward in "onnxruntime" and in "torch"; None if not asked for."""
        return None if self.latency is None else {name: 1e3 * value.median for name, value in self.latency.items()}

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, numbers and strings."""
        content: dict[str, Any] = to_plain(replace(self, latency=None))
        del content["latency"]
        return content | {"latency_ms": self.latency_ms}


@checks_option_names
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
    """Write `model`, as it is in evaluation mode, to an ONNX file, and check that onnxruntime computes the same.

    A copy of the model on the CPU is exported; the model is left as it is. Where an export fails, no file is
    left behind, and a file that was there stays.

    Args:
        model: Any model, pruned or not, or what `prune` returned.
        example_inputs: What it is called with. Their tensors become the file's inputs; everything else is
            fixed in it.
        path: The file to write.
        opset: Version of ONNX's operators; None for the exporter's choice.
        dynamic_batch: Let axis zero of every input have any length.
        check: Compare outputs with the model's in onnxruntime: on the example inputs, on noise like them of
            either sign, and where the batch is free, on batches of other sizes.
        tolerance: How far an output may be off, over the largest absolute entry of that output.
        latency: Measure both, side by side; True for the defaults, or the settings.
        exporter: Which of PyTorch's exporters to use. By default the current one, "dynamo", and the older
            "torchscript" where that fails or this version of PyTorch lacks it; `OnnxExport.exporter` and
            `notes` say so.

    Returns:
        What was written, and how far it is off.

    Raises:
        ExportError: The model cannot be exported so, or what came of it differs; the message says where or
            how far.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
        OutputError: There can be no file at `path`.
        ExampleInputsError: Inputs that the model cannot be exported with.
        LatencyError: Settings that cannot be followed.
    """
    path = Path(path)
    require_writable(path)
    chosen = chosen_exporters(exporter)
    require_exporters(chosen)
    if check or latency:
        require("onnxruntime", "onnxruntime", "export")
    model = as_model(model)
    with torch.inference_mode(False), generators_kept():
        conversion = Conversion(model, example_inputs, opset, dynamic_batch)
        call, inputs = conversion.call, conversion.inputs

        def checked(content: bytes) -> Difference | None:
            return _compared(call, inputs, content, dynamic_batch, tolerance) if check else None

        found = conversion.first_that_works(chosen, checked)
        measured = _latency(call, inputs, found.content, latency)
    described = require("onnx", "onnx", "export").load_model_from_string(found.content)
    write_bytes(path, found.content)
    difference = found.checked
    return OnnxExport(
        path,
        opset_of(described),
        found.exporter,
        dynamic_batch,
        tuple(value.name for value in described.graph.input),
        tuple(value.name for value in described.graph.output),
        len(found.content),
        None if difference is None else difference.largest,
        None if difference is None else difference.same_predictions,
        measured,
        found.notes,
    )


def _compared(
    call: FlatCall, inputs: ExampleInputs, content: bytes, dynamic_batch: bool, tolerance: float
) -> Difference:
    """Compare a file with the model in ONNX Runtime.

    Raises:
        ExportError: It differs.
    """
    graph = OnnxRuntimeModel(content, call.input_names)
    return compare(call.outputs, graph.outputs, inputs_to_check(inputs, dynamic_batch), tolerance)


def _latency(
    call: FlatCall, inputs: ExampleInputs, content: bytes, wanted: bool | LatencySettings
) -> dict[str, Latency] | None:
    """Measure the file and the model in turns, with the same number of threads; the file in the runtime asked for as well."""
    if not wanted:
        return None
    settings = LatencySettings() if isinstance(wanted, bool) else wanted
    models: dict[str, nn.Module] = {"torch": call.model}
    for name in dict.fromkeys(("onnxruntime", settings.runtime)):
        load = RUNTIMES[name].load
        if load is not None:
            models[name] = load(content, call.input_names, settings.used_threads)
    return dataclasses.replace(settings, runtime="torch").measure(models, inputs)
