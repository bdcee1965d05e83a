"""`export_onnx`: a model in, an ONNX file that onnxruntime was seen to run like it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dfpc_plugin.exporting.call import FlatCall, batch_size_of, on_cpu, with_batch
from dfpc_plugin.exporting.compare import Difference, compare, inputs_to_check
from dfpc_plugin.exporting.errors import ExportError, advice_on_batch, reason_of
from dfpc_plugin.exporting.exporters import EXPORTERS, EXPORTING, available
from dfpc_plugin.exporting.noise import heard
from dfpc_plugin.exporting.runtime import RuntimeModel
from dfpc_plugin.files import require_writable, write_bytes
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.inputs import ExampleInputs, as_call, fresh
from dfpc_plugin.latency import Latency, LatencySettings
from dfpc_plugin.require import require
from dfpc_plugin.tracing.tree import tensors
from dfpc_plugin.wrappers import HoldsModel, as_model

__all__ = ["OnnxExport", "export_onnx"]

Exporter = Literal["auto", "dynamo", "torchscript"]

_LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one ONNX file, whose format cannot count beyond 2 GiB, with room for the graph."""


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
        content = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        del content["latency"]
        return content | {"path": str(self.path), "latency_ms": self.latency_ms}


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
    chosen = _exporters(exporter)
    _require_packages(chosen, run=check or bool(latency))
    model = as_model(model)
    _require_small(model)
    with torch.inference_mode(False), generators_kept():
        copied, inputs = on_cpu(model, example_inputs)
        job = _Job(copied, inputs, opset, dynamic_batch, check, tolerance)
        content, used, difference, notes = job.first_that_works(chosen)
        measured = _latency(job.call, inputs, content, latency)
    described = require("onnx", "onnx", "export").load_model_from_string(content)
    write_bytes(path, content)
    return OnnxExport(
        path,
        _opset_of(described),
        used,
        dynamic_batch,
        tuple(value.name for value in described.graph.input),
        tuple(value.name for value in described.graph.output),
        len(content),
        None if difference is None else difference.largest,
        None if difference is None else difference.same_predictions,
        measured,
        notes,
    )


class _Job:
    """One model and what is wanted of its file."""

    def __init__(
        self,
        model: nn.Module,
        inputs: ExampleInputs,
        opset: int | None,
        dynamic_batch: bool,
        check: bool,
        tolerance: float,
    ) -> None:
        self.call = FlatCall(model, inputs)
        self._outputs = tuple(self.call.outputs(inputs))
        self._inputs, self._opset, self._dynamic = inputs, opset, dynamic_batch
        self._check, self._tolerance = check, tolerance
        traced = inputs
        if dynamic_batch and batch_size_of(inputs) < 2:
            traced = with_batch(inputs, 2)  # a length of one is taken for a constant
        self._flat = tuple(tensors(as_call(traced)))

    def first_that_works(self, exporters: tuple[str, ...]) -> tuple[bytes, str, Difference | None, tuple[str, ...]]:
        """Try exporters in turn; return the file's content, which of them it is of, how far off it is, and notes.

        Raises:
            ExportError: None works.
        """
        failures: list[str] = []
        notes = () if "dynamo" in exporters or available("dynamo") else (_too_old(),)
        for name in exporters:
            try:
                content, told = self._converted(name)
                difference = self._checked(content) if self._check else None
            except ExportError as error:
                failures.append(f"{name}: {str(error).rstrip('.')}")
            else:
                return content, name, difference, (*notes, *(_fell_back(failure) for failure in failures), *told)
        reasons = ". By ".join(failures)
        advice = advice_on_batch(reasons, self._dynamic)
        raise ExportError(f"The model cannot be exported to ONNX. By {reasons}.{advice}")

    def _converted(self, name: str) -> tuple[bytes, list[str]]:
        """The bytes of the file, and what the exporter has to tell.

        Raises:
            ExportError: The exporter has failed, or has not kept to the opset or the free batch.
        """
        try:
            with EXPORTING, heard() as told, torch.no_grad():
                content = EXPORTERS[name](self.call, fresh(self._flat), self._outputs, self._opset, self._dynamic)
        except Exception as error:  # exporters raise whatever the model's own code and their own many parts do
            raise ExportError(reason_of(error, self.call.model)) from error
        onnx = require("onnx", "onnx", "export")
        try:
            described = onnx.load_model_from_string(content)
            onnx.checker.check_model(described)
        except onnx.checker.ValidationError as error:
            raise ExportError(f"ONNX's own checker refuses what was written: {error}") from error
        if self._opset not in (None, _opset_of(described)):
            raise ExportError(f"opset {self._opset} was asked for, and the exporter has written {_opset_of(described)}")
        for value in described.graph.input:
            if self._dynamic and not value.type.tensor_type.shape.dim[0].dim_param:
                raise ExportError(f"the batch of '{value.name}' cannot be free: the forward depends on its size")
        return content, told

    def _checked(self, content: bytes) -> Difference:
        """Compare in onnxruntime.

        Raises:
            ExportError: It differs.
        """
        runtime = RuntimeModel(content, self.call.input_names)
        inputs = inputs_to_check(self._inputs, self._dynamic)
        return compare(self.call.outputs, runtime.outputs, inputs, self._tolerance)


def _exporters(wanted: Exporter) -> tuple[str, ...]:
    """Names of the exporters to try.

    Raises:
        ExportError: This version of PyTorch has none of them.
    """
    if wanted != "auto" and wanted not in EXPORTERS:
        raise ExportError(f"There is no exporter '{wanted}'; choose auto, {' or '.join(EXPORTERS)}.")
    if wanted == "dynamo" and not available(wanted):
        raise ExportError(f"{_too_old()} Upgrade PyTorch, or pass exporter='torchscript'.")
    return tuple(name for name in EXPORTERS if wanted in ("auto", name) and available(name))


def _require_packages(exporters: tuple[str, ...], *, run: bool) -> None:
    """Raise, before any work is done, if a package is missing that will be needed."""
    needed = {"onnx": True, "onnxscript": "dynamo" in exporters, "onnxruntime": run}
    for package, wanted in needed.items():
        if wanted:
            require(package, package, "export")


def _too_old() -> str:
    return f"PyTorch {torch.__version__} lacks the current exporter to ONNX."


def _fell_back(failure: str) -> str:
    return f"Another exporter was used, since one failed. {failure[0].upper()}{failure[1:]}."


def _require_small(model: nn.Module) -> None:
    """Refuse what one file cannot hold.

    Raises:
        ExportError: The weights are too large.
    """
    found = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}.values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in found)
    if size > _LARGEST:
        raise ExportError(
            f"The model's weights take {size / 2**30:.1f} GiB, and an ONNX file holds 2 GiB; convert it to half "
            f"precision (model.half()), or use export_program."
        )


def _opset_of(described: Any) -> int:
    """Version of ONNX's own operators, whose domain has no name."""
    return next(entry.version for entry in described.opset_import if entry.domain in ("", "ai.onnx"))


def _latency(
    call: FlatCall, inputs: ExampleInputs, content: bytes, wanted: bool | LatencySettings
) -> dict[str, Latency] | None:
    """Measure the file and the model in turns, with the same number of threads."""
    if not wanted:
        return None
    settings = LatencySettings() if isinstance(wanted, bool) else wanted
    threads = torch.get_num_threads() if settings.threads is None else settings.threads
    runtime = RuntimeModel(content, call.input_names, threads).eval()
    return settings.measure({"torch": call.model, "onnxruntime": runtime}, inputs)
