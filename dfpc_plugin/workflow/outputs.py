"""Write what came of a run: the artifact, with the report, the recipe and the exports in it, quantized or not."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.artifact import save_pruned
from dfpc_plugin.errors import system_reason
from dfpc_plugin.exporting import export_onnx, export_program, quantize_onnx
from dfpc_plugin.files import OutputError, clear_leftovers, hidden_name, write_text
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.progress import Phases
from dfpc_plugin.repairing import synthesise
from dfpc_plugin.repairing.noise import pink_noise
from dfpc_plugin.report.page import render_report
from dfpc_plugin.runtimes import RUNTIMES
from dfpc_plugin.runtimes.call import on_cpu
from dfpc_plugin.runtimes.graphs import OnnxRuntimeModel
from dfpc_plugin.workflow.opening import images_to_calibrate
from dfpc_plugin.workflow.sections import DataSection, ExportSection, RecipeError
from dfpc_plugin.workflow.stages import Stages

RECIPE, REPORT, LAYERS = "recipe.yaml", "report.html", "layers.csv"
ONNX, INT8, PROGRAM = "model.onnx", "model-int8.onnx", "model.pt2"


def write_outputs(
    stages: Stages,
    model: nn.Module,
    output: Path,
    wanted: ExportSection,
    *,
    overwrite: bool,
    latency: LatencySettings | None = None,
) -> dict[str, Any]:
    """Write a directory in one step, with what else is `wanted`, and return the record as it is kept there.

    Raises:
        ArtifactError: It cannot be written, or the model cannot be saved; what was there is as it was.
        ExportError: The model cannot be exported, or what came of it differs.
    """
    record = stages.record
    with _scratch(output) as scratch:
        phases = Phases(stages.tell)
        asked = {ONNX: wanted.graph, INT8: wanted.int8 != "none", PROGRAM: wanted.program}
        for name in (name for name in asked if asked[name]):
            with phases(f"exporting {name}") as share:
                record.exports.append(_exported(stages, model, scratch / name, wanted, phases, share) | {"path": name})
        if wanted.graph:
            with phases("measuring the files' latency") as share:
                _add_latency(stages, model, scratch, latency or LatencySettings(), share)
        if stages.images is not None and asked[INT8]:
            with phases("evaluating int8"):
                stages.measure("int8", _FirstOutput((scratch / INT8).read_bytes()), on_curve=False)
        if phases.seconds:
            record.add_seconds("exports", sum(phases.seconds.values()))
        content = record.to_json()
        report, layers = render_report(content), record.layer_table()

        def add(directory: Path) -> None:
            write_text(directory / REPORT, report)
            if layers is not None:
                write_text(directory / LAYERS, layers.to_csv())
            if record.recipe is not None:
                write_text(directory / RECIPE, record.recipe)
            for exported in scratch.iterdir():
                shutil.move(exported, directory / exported.name)

        save_pruned(
            model,
            output,
            model=stages.opened.spec,
            example_inputs=stages.opened.inputs,
            record=content,
            overwrite=overwrite,
            finish=add,
        )
    return content


def _exported(
    stages: Stages, model: nn.Module, path: Path, wanted: ExportSection, phases: Phases, share: Callable[[float], None]
) -> dict[str, Any]:
    """Write the file that `path` names, and tell the share that is done; return what the record says of it."""
    inputs = stages.opened.inputs
    if path.name == ONNX:
        return {"kind": "ONNX"} | export_onnx(model, inputs, path).to_json()
    if wanted.int8 != "none" and path.name == INT8:
        with phases("images for int8") as made:
            images, origin = _images(stages, model, wanted.int8_images, made)
        int8 = quantize_onnx(path.with_name(ONNX), path, images, method=wanted.int8, progress=share)
        return {"kind": "ONNX, int8", "images_from": origin} | int8.to_json()
    return {"kind": "torch.export"} | export_program(model, inputs, path).to_json()


def _add_latency(
    stages: Stages, model: nn.Module, directory: Path, settings: LatencySettings, share: Callable[[float], None]
) -> None:
    """Measure the model in PyTorch and its ONNX files, all of them in turns, and add the times to the files' entries."""
    own, inputs = on_cpu(model, stages.opened.inputs)
    models: dict[str, nn.Module] = {"torch": own}
    for name in dict.fromkeys(("onnxruntime", settings.runtime)):
        load = RUNTIMES[name].load
        if load is not None:
            models[name] = load((directory / ONNX).read_bytes(), None, settings.used_threads)
    if (directory / INT8).is_file():
        models["int8"] = OnnxRuntimeModel((directory / INT8).read_bytes(), threads=settings.used_threads)
    found = dataclasses.replace(settings, runtime="torch").measure(models, inputs, share)
    times = {name: 1e3 * latency.median for name, latency in found.items()}
    for entry in stages.record.exports:
        if entry["path"] == ONNX:
            entry["latency_ms"] = {name: ms for name, ms in times.items() if name != "int8"}
        elif entry["path"] == INT8:
            entry["latency_ms"] = {"float32": times["onnxruntime"], "int8": times["int8"]}
        if entry["path"] != PROGRAM:
            entry["latency_conditions"] = found["torch"].conditions


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A directory beside the output, on the same disk, that is deleted."""
    directory = output.resolve().with_name(hidden_name(output.name))
    clear_leftovers(output.resolve())
    try:
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise OutputError(f"Cannot write beside '{output}': {system_reason(error)}.") from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def require_images(section: ExportSection, data: DataSection, model: nn.Module) -> None:
    """Raise a RecipeError if there are no images to measure the ranges of activations on, and none can be made."""
    if section.int8 == "static" and data.train is None and not _has_statistics(model):
        raise RecipeError(
            "export.int8=static measures ranges on images, and this model has no batch norm to make them from; say where "
            "images are in data.train, or choose export.int8=dynamic."
        )


class _FirstOutput(nn.Module):
    """An ONNX file as a classifier: a module with one output."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.graph = OnnxRuntimeModel(content)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.graph(images)[0]
        return output


def _images(stages: Stages, model: nn.Module, count: int, share: Callable[[float], None]) -> tuple[Tensor, str]:
    """Images as the model takes them, and where they are from."""
    if stages.data.train is not None:
        return images_to_calibrate(stages.data, stages.opened.preprocessing, count, seed=0), "data.train"
    if _has_statistics(model):
        made = synthesise(model, stages.opened.inputs, count=count, progress=share)
        return torch.cat(made.batches), "synthetic images"
    return pink_noise((count, *stages.opened.preprocessing.size), torch.Generator().manual_seed(0)), "noise"


def _has_statistics(model: nn.Module) -> bool:
    """Whether images can be made from the statistics of batch norms."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.running_mean is not None for norm in norms)
