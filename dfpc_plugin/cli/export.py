"""`dfpc export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.cli.model_options import SubjectOptions
from dfpc_plugin.cli.output import OptionError, print_json, say
from dfpc_plugin.exporting import export_onnx, export_program
from dfpc_plugin.files import require_writable
from dfpc_plugin.plain_data import Count


@dataclass(frozen=True)
class ExportConfig(SubjectOptions):
    """Options of `dfpc export`.

    Attributes:
        onnx: Write an ONNX file, and compare its outputs in onnxruntime.
        program: Write a program of torch.export (.pt2), and compare its outputs.
        opset: Version of ONNX's operators; by default the exporter's choice.
        dynamic_batch: Let batches have any size.
        batch_size: Images of the example inputs.
        latency: Measure onnxruntime beside PyTorch.
        json: Print what was written as JSON.
        quiet: Show no progress.
    """

    onnx: Path | None = field(default=None, metadata={"metavar": "FILE"})
    program: Path | None = field(default=None, metadata={"metavar": "FILE"})
    opset: int | None = None
    dynamic_batch: bool = True
    batch_size: Count = 1
    latency: bool = False
    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.onnx is None and self.program is None:
            raise OptionError(
                f"There is nothing to write. Name a file, for example: dfpc export {self.model} --onnx model.onnx (or --program "
                f"model.pt2, or both)."
            )


def run(config: ExportConfig, consoles: Consoles) -> None:
    """Write a saved model, or one by name, as an ONNX file or a program of torch.export, checked against the model."""
    for path in (config.onnx, config.program):
        if path is not None:
            require_writable(path)
    found: list[dict[str, Any]] = []
    with bars(consoles.err, config.quiet or config.json) as tell:
        opened = config.opened(None if config.quiet else consoles.err, batch_size=config.batch_size)
        if config.onnx is not None:
            tell("exporting to ONNX", 0.0)
            written = export_onnx(
                opened.model, opened.inputs, config.onnx, opset=config.opset, dynamic_batch=config.dynamic_batch,
                latency=config.latency,
            )  # fmt: skip
            found.append({"kind": "ONNX"} | written.to_json())
        if config.program is not None:
            tell("exporting by torch.export", 0.0)
            program = export_program(opened.model, opened.inputs, config.program, dynamic_batch=config.dynamic_batch)
            found.append({"kind": "torch.export"} | program.to_json())
    if config.json:
        print_json(found, consoles.out)
        return
    for export in found:
        say(consoles.out, _line(export), *export.get("notes", ()))


def _line(export: dict[str, Any]) -> str:
    latency = export.get("latency_ms")
    timed = ""
    if latency is not None:
        timed = (
            f"; {latency['onnxruntime']:.2f} ms in onnxruntime, {latency['torch']:.2f} ms in PyTorch "
            f"({export['latency_conditions']})"
        )
    return (
        f"{export['path']} ({export['kind']}, {export['bytes'] / 1e6:.1f} MB): outputs differ by "
        f"{export['max_difference']:.1e} of the largest{timed}"
    )
