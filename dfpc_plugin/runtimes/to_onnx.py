"""Convert a model to the bytes of an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from dfpc_plugin.advice import call, setting
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.inputs import ExampleInputs, as_call, fresh
from dfpc_plugin.require import require
from dfpc_plugin.runtimes.call import FlatCall, batch_size_of, on_cpu, with_batch
from dfpc_plugin.runtimes.errors import ExportError, advice_on_batch, reason_of
from dfpc_plugin.runtimes.exporters import EXPORTERS, EXPORTING, available, heard
from dfpc_plugin.tracing.tree import tensors

Checked = TypeVar("Checked")

_LARGEST = 2**31 - 2**20
"""Largest bytes of weights in one ONNX file: the format ends at 2 GiB, and the graph needs room."""


@dataclass(frozen=True)
class Converted(Generic[Checked]):
    """The content of an ONNX file.

    Attributes:
        content: Its bytes.
        exporter: The exporter of PyTorch that wrote it.
        checked: The result of the check.
        notes: Remarks for the user, in sentences.
    """

    content: bytes
    exporter: str
    checked: Checked
    notes: tuple[str, ...]


class Conversion:
    """A conversion of a model, on a copy on the CPU.

    Attributes:
        call: The copy as a function of a flat list of tensors.
        inputs: What it is called with, on the CPU.
    """

    def __init__(self, model: nn.Module, inputs: ExampleInputs, opset: int | None, dynamic_batch: bool) -> None:
        """Prepare to convert a copy of a model, which exporters may change.

        `opset` is the version of ONNX's operators, None for the exporter's default; with `dynamic_batch`, axis zero of
        every input may have any length. Raises ExportError if the weights are too large for one file,
        ExampleInputsError if the model cannot be exported with these inputs.
        """
        _require_small(model)
        copied, self.inputs = on_cpu(model, inputs)
        self.call = FlatCall(copied, self.inputs)
        self._outputs = tuple(self.call.outputs(self.inputs))
        self._opset, self._dynamic = opset, dynamic_batch
        traced = self.inputs
        if dynamic_batch and batch_size_of(traced) < 2:
            traced = with_batch(traced, 2)  # exporters treat a length of one as a constant
        self._flat = tuple(tensors(as_call(traced)))

    def first_that_works(self, exporters: tuple[str, ...], check: Callable[[bytes], Checked]) -> Converted[Checked]:
        """Try `exporters`, given by name, in turn; raises ExportError if none works.

        `check` raises ExportError if the content is wrong.
        """
        failures: list[str] = []
        notes = () if "dynamo" in exporters or available("dynamo") else (_too_old(),)
        for name in exporters:
            try:
                content, told = self._converted(name)
                checked = check(content)
            except ExportError as error:
                failures.append(f"{name}: {str(error).rstrip('.')}")
            else:
                fallen_back = (
                    f"Another exporter was used, since one failed. {failure[0].upper()}{failure[1:]}."
                    for failure in failures
                )
                said = (*notes, *fallen_back, *told)
                return Converted(content, name, checked, said)
        reasons = ". By ".join(failures)
        advice = advice_on_batch(reasons, self._dynamic)
        raise ExportError(f"The model cannot be exported to ONNX. By {reasons}.{advice}")

    def _converted(self, name: str) -> tuple[bytes, list[str]]:
        """The bytes of the file, and the exporter's warnings.

        Raises ExportError if the exporter fails, or ignores the opset or the dynamic batch.
        """
        try:
            with EXPORTING, heard() as told, torch.no_grad():
                content = EXPORTERS[name](self.call, fresh(self._flat), self._outputs, self._opset, self._dynamic)
        except Exception as error:  # the model's code and the exporters can raise anything
            raise ExportError(reason_of(error, self.call.model)) from error
        onnx = require("onnx", "onnx", "export")
        try:
            described = onnx.load_model_from_string(content)
            onnx.checker.check_model(described)
        except onnx.checker.ValidationError as error:
            raise ExportError(f"ONNX's own checker refuses what was written: {error}") from error
        if self._opset not in (None, opset_of(described)):
            raise ExportError(f"opset {self._opset} was asked for, and the exporter has written {opset_of(described)}")
        for value in described.graph.input:
            if self._dynamic and not value.type.tensor_type.shape.dim[0].dim_param:
                raise ExportError(f"the batch of '{value.name}' cannot be free: the forward depends on its size")
        return content, told


def onnx_graph(model: nn.Module, example_inputs: ExampleInputs) -> tuple[bytes, tuple[str, ...]]:
    """Return the ONNX file of a model for inputs of exactly these shapes, and the names of its inputs.

    Raises ExportError if it cannot be converted, MissingDependencyError if onnx or onnxscript is not installed.
    """
    exporters = chosen_exporters("auto")
    require_exporters(exporters)
    with torch.inference_mode(False), generators_kept():
        conversion = Conversion(model, example_inputs, None, dynamic_batch=False)
        found = conversion.first_that_works(exporters, lambda content: None)
    return found.content, conversion.call.input_names


def chosen_exporters(wanted: str) -> tuple[str, ...]:
    """Names of the exporters to try, for the name of one or "auto".

    Raises ExportError if there is no such exporter, or this version of PyTorch lacks it.
    """
    if wanted != "auto" and wanted not in EXPORTERS:
        raise ExportError(f"There is no exporter '{wanted}'; choose auto, {' or '.join(EXPORTERS)}.")
    if wanted == "dynamo" and not available(wanted):
        raise ExportError(f"{_too_old()} Upgrade PyTorch, or pass {setting('exporter', 'torchscript')}.")
    return tuple(name for name in EXPORTERS if wanted in ("auto", name) and available(name))


def require_exporters(exporters: tuple[str, ...]) -> None:
    """Raise MissingDependencyError early if a package is missing that the exporters need."""
    for package in ("onnx", *(("onnxscript",) if "dynamo" in exporters else ())):
        require(package, package, "export")


def opset_of(described: Any) -> int:
    """Version of ONNX's standard operators, whose domain has an empty name, in a loaded model."""
    return next(entry.version for entry in described.opset_import if entry.domain in ("", "ai.onnx"))


def _too_old() -> str:
    return f"PyTorch {torch.__version__} lacks the current exporter to ONNX."


def _require_small(model: nn.Module) -> None:
    """Raise ExportError if the weights are too large for one file."""
    found = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}.values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in found)
    if size > _LARGEST:
        raise ExportError(
            f"The model's weights take {size / 2**30:.1f} GiB, and an ONNX file holds 2 GiB; convert it to half "
            f"precision (model.half()), or use {call('export_program', 'export MODEL --program model.pt2')}."
        )
