"""Write what came of a run: the artifact, with the report, the recipe and the exports in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from dfpc_plugin.artifact import save_pruned
from dfpc_plugin.errors import system_reason
from dfpc_plugin.exporting import export_onnx, export_program
from dfpc_plugin.files import OutputError, clear_leftovers, hidden_name, write_text
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.progress import Progress
from dfpc_plugin.record import RunRecord
from dfpc_plugin.report.page import render_report
from dfpc_plugin.workflow.int8 import export_int8, note_accuracy
from dfpc_plugin.workflow.opening import Opened
from dfpc_plugin.workflow.sections import DataSection, ExportSection
from dfpc_plugin.workflow.stages import Validation

__all__ = ["INT8", "ONNX", "PROGRAM", "RECIPE", "REPORT", "write_outputs"]

RECIPE, REPORT = "recipe.yaml", "report.html"
ONNX, INT8, PROGRAM = "model.onnx", "model-int8.onnx", "model.pt2"


def write_outputs(
    output: Path,
    model: nn.Module,
    opened: Opened,
    record: RunRecord,
    wanted: ExportSection,
    tell: Progress,
    *,
    overwrite: bool,
    data: DataSection | None = None,
    latency: LatencySettings | None = None,
    validation: Validation | None = None,
) -> dict[str, Any]:
    """Write a directory in one step, with what else is `wanted`, and return the record as it is kept there.

    Raises:
        ArtifactError: It cannot be written, or the model cannot be saved; what was there is as it was.
        ExportError: The model cannot be exported, or what came of it differs.
    """
    with _scratch(output) as scratch:
        for name, export in _exports(wanted, data or DataSection()).items():
            tell(f"exporting {name}", 0.0)
            record.exports.append(export(model, opened, scratch / name, latency) | {"path": name})
            tell(f"exporting {name}", 1.0)
        if validation is not None and (scratch / INT8).is_file():
            note_accuracy(scratch / INT8, validation, record)
        content = record.to_json()
        report = render_report(content)

        def finish(directory: Path) -> None:
            write_text(directory / REPORT, report)
            if record.recipe is not None:
                write_text(directory / RECIPE, record.recipe)
            for exported in scratch.iterdir():
                shutil.move(exported, directory / exported.name)

        save_pruned(
            model,
            output,
            model=opened.spec,
            example_inputs=opened.inputs,
            record=content,
            overwrite=overwrite,
            finish=finish,
        )
    return content


Export = Callable[[nn.Module, Opened, Path, LatencySettings | None], dict[str, Any]]
"""Writes a file, and returns what the record says of it."""


def _exports(wanted: ExportSection, data: DataSection) -> dict[str, Export]:
    """What to export, by the name of the file."""

    def int8(model: nn.Module, opened: Opened, path: Path, latency: LatencySettings | None) -> dict[str, Any]:
        return export_int8(model, opened, path.with_name(ONNX), path, wanted, data, latency)

    exporters: dict[str, tuple[bool, Export]] = {
        ONNX: (wanted.graph, _onnx),
        INT8: (wanted.int8 != "none", int8),
        PROGRAM: (wanted.program, _program),
    }
    return {name: export for name, (asked, export) in exporters.items() if asked}


def _onnx(model: nn.Module, opened: Opened, path: Path, latency: LatencySettings | None) -> dict[str, Any]:
    return {"kind": "ONNX"} | export_onnx(model, opened.inputs, path, latency=latency or True).to_json()


def _program(model: nn.Module, opened: Opened, path: Path, latency: LatencySettings | None) -> dict[str, Any]:
    return {"kind": "torch.export"} | export_program(model, opened.inputs, path).to_json()


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
