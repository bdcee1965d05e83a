"""The step of a recipe that quantizes the exported model for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.exporting import quantize_onnx
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.record import RunRecord
from dfpc_plugin.repairing import synthesise
from dfpc_plugin.repairing.noise import pink_noise
from dfpc_plugin.runtimes.graphs import OnnxRuntimeModel
from dfpc_plugin.workflow.opening import Opened, images_to_calibrate
from dfpc_plugin.workflow.sections import DataSection, ExportSection, RecipeError
from dfpc_plugin.workflow.stages import Validation

__all__ = ["export_int8", "note_accuracy", "require_images"]


def require_images(section: ExportSection, data: DataSection, model: nn.Module) -> None:
    """Raise a RecipeError if there are no images to measure the ranges of activations on, and none can be made."""
    if section.int8 == "static" and data.train is None and not _has_statistics(model):
        raise RecipeError(
            "export.int8=static measures ranges on images, and this model has no batch norm to make them from; say where "
            "images are in data.train, or choose export.int8=dynamic."
        )


def export_int8(
    model: nn.Module,
    opened: Opened,
    source: Path,
    path: Path,
    section: ExportSection,
    data: DataSection,
    latency: LatencySettings | None,
) -> dict[str, Any]:
    """Quantize `source`, the ONNX file of a model, into `path`; return what the record says of it."""
    assert section.int8 != "none"
    images, origin = _images(model, opened, section, data)
    found = quantize_onnx(source, path, images, method=section.int8, latency=latency or True)
    return {"kind": "ONNX, int8", "images_from": origin} | found.to_json()


def note_accuracy(path: Path, validation: Validation, record: RunRecord) -> None:
    """Measure the accuracy of a quantized file, and note it."""
    validation.note(record, "int8", _FirstOutput(path.read_bytes()))


class _FirstOutput(nn.Module):
    """An ONNX file as a classifier: a module with one output."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.graph = OnnxRuntimeModel(content)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.graph(images)[0]
        return output


def _images(model: nn.Module, opened: Opened, section: ExportSection, data: DataSection) -> tuple[Tensor, str]:
    """Images as the model takes them, and where they are from."""
    if data.train is not None:
        return images_to_calibrate(data, opened.preprocessing, section.int8_images, seed=0), "data.train"
    if _has_statistics(model):
        made = synthesise(model, opened.inputs, count=section.int8_images)
        return torch.cat(made.batches), "synthetic images"
    shape = (section.int8_images, *opened.preprocessing.size)
    return pink_noise(shape, torch.Generator().manual_seed(0)), "noise"


def _has_statistics(model: nn.Module) -> bool:
    """Whether images can be made from the statistics of batch norms."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.running_mean is not None for norm in norms)
