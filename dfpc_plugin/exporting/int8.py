"""`quantize_onnx`: quantize an ONNX file to 8-bit integers, and measure the difference of its outputs."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

from torch import Tensor, nn

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.errors import system_reason
from dfpc_plugin.exporting.compare import MeasuredFile, compare, timed
from dfpc_plugin.exporting.onnx_file import OnnxExport
from dfpc_plugin.files import require_writable, write_bytes
from dfpc_plugin.latency import Latency, LatencySettings
from dfpc_plugin.latency.turns import errors_only
from dfpc_plugin.require import require
from dfpc_plugin.runtimes.errors import ExportError
from dfpc_plugin.runtimes.graphs import OnnxRuntimeModel

Int8Method = Literal["static", "dynamic"]

_HELD_OUT = 0.25
"""Share of the images on which outputs are compared; the ranges are measured on the others."""
_OF_MATRICES = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Int8Export(MeasuredFile):
    """A quantized ONNX file and its measurements.

    Attributes:
        path: The file.
        method: "static": ranges of activations were measured on images; "dynamic": they are measured at every call.
        images: Number of images on which ranges were measured; 0 for "dynamic".
        compared: Number of other images on which outputs were compared.
        bytes: Size of the file.
        bytes_before: Size of the file in floating point.
        max_difference: Largest difference of an output from the floating-point file's, over the largest entry of that
            output.
        same_predictions: Share of the images with the same largest output, 0 to 1; None if outputs are not scores.
        latency: Latency of "float32" and "int8" in ONNX Runtime, measured in turns; None if not asked for.
    """

    path: Path
    method: str
    images: int
    compared: int
    bytes: int
    bytes_before: int
    max_difference: float
    same_predictions: float | None
    latency: Mapping[str, Latency] | None = None


@checks_arguments
def quantize_onnx(
    source: str | Path | OnnxExport,
    path: str | Path,
    images: Tensor,
    *,
    method: Int8Method = "static",
    per_channel: bool = True,
    reduce_range: bool = True,
    latency: bool | LatencySettings = False,
    progress: Callable[[float], None] | None = None,
) -> Int8Export:
    """Quantize an ONNX file's weights and activations to 8 bits for ONNX Runtime, and compare the two files.

    "static" suits convolutional networks: ranges of activations are measured on images in advance. "dynamic" suits
    transformers: it quantizes only matrix products, and measures ranges at every call.

    Args:
        source: An ONNX file with one input, such as `export_onnx` writes, or what that returns.
        path: The file to write.
        images: `(count, channels, height, width)`, preprocessed for the model, at least 4. Ranges are measured on three
            quarters of them, and outputs compared on the others.
        method: How the ranges of activations are found.
        per_channel: Use one scale per output channel of a layer's weights.
        reduce_range: Use 7 of the 8 bits for weights. Processors without instructions for 8-bit dot products (AVX-512
            VNNI) add products in 16 bits, which overflow with 8-bit weights: outputs are then off by tens of per cent.
        latency: Measure both files, side by side, with one image; True for the defaults, or the settings.
        progress: Called with the share of the images that were run through the file, 0 to 1.

    Returns:
        The file and its measurements.

    Raises:
        ExportError: The file cannot be read or quantized, has several inputs, or there are fewer than 4 images.
        OutputError: `path` cannot be written.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    source, path = Path(source.path if isinstance(source, OnnxExport) else source), Path(path)
    require_writable(path)
    for package in ("onnx", "onnxruntime"):
        require(package, package, "export")
    if method not in get_args(Int8Method):
        raise ExportError(f"method='{method}' is none of {', '.join(get_args(Int8Method))}; choose one of them.")
    before = _read(source)
    graph = OnnxRuntimeModel(before)
    measured, held_out = _parted(graph, images)
    options = {"per_channel": per_channel, "reduce_range": reduce_range}
    given = _counted(images, progress or (lambda share: None))
    content = _quantized(source, graph.input_names[0], given(measured), method, options)
    quantized = OnnxRuntimeModel(content)
    difference = compare(
        lambda given: {f"output_{number}": output for number, output in enumerate(graph.outputs(given))},
        quantized.outputs,
        given(held_out),
        float("inf"),
    )
    contents = {"float32": before, "int8": content}
    found = timed(functools.partial(_loaded, contents), images[:1], latency)
    write_bytes(path, content)
    counts = len(measured) if method == "static" else 0, len(held_out), len(content), len(before)
    return Int8Export(path, method, *counts, difference.largest, difference.same_predictions, found)


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise ExportError(f"Cannot read '{source}': {system_reason(error)}.") from error


def _parted(graph: OnnxRuntimeModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Split images: to measure ranges on, and to compare outputs on.

    Raises ExportError if the graph has several inputs, or if there are fewer than 4 images.
    """
    if len(graph.input_names) != 1:
        raise ExportError(
            f"Only files with one input can be quantized, and this one has {len(graph.input_names)}: "
            f"{', '.join(graph.input_names)}."
        )
    if not isinstance(images, Tensor):
        raise ExportError(f"images is a {type(images).__name__}; give a tensor (count, channels, height, width).")
    if len(images) < 4:
        raise ExportError(f"Quantization takes at least 4 images, not {len(images)}; give more.")
    kept = len(images) - max(1, round(_HELD_OUT * len(images)))
    images = images.detach().cpu()
    return images[:kept], images[kept:]


def _counted(images: Tensor, progress: Callable[[float], None]) -> Callable[[Tensor], Iterator[Tensor]]:
    """Return a function that yields a part of the images one by one, and tells the share of all of them so far."""
    number = itertools.count(1)

    def each(part: Tensor) -> Iterator[Tensor]:
        for image in part.split(1):
            yield image
            progress(next(number) / len(images))

    return each


def _quantized(source: Path, name: str, images: Iterator[Tensor], method: str, options: dict[str, Any]) -> bytes:
    """The content of the quantized file; raises ExportError if ONNX Runtime cannot quantize it."""
    quantization = require("onnxruntime.quantization", "onnxruntime", "export")
    shape_inference = require("onnxruntime.quantization.shape_inference", "onnxruntime", "export")
    with tempfile.TemporaryDirectory() as directory, errors_only():  # it advises to prepare the file, which is done
        prepared, target = Path(directory) / "prepared.onnx", Path(directory) / "int8.onnx"
        try:
            shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            if method == "dynamic":
                quantization.quantize_dynamic(prepared, target, op_types_to_quantize=list(_OF_MATRICES), **options)
            else:
                feeds = ({name: image.numpy()} for image in images)
                reader = SimpleNamespace(get_next=lambda: next(feeds, None))
                quantization.quantize_static(prepared, target, reader, **options)
        except Exception as error:  # ONNX Runtime can raise anything
            raise ExportError(f"ONNX Runtime cannot quantize '{source.name}': {error}") from error
        return target.read_bytes()


def _loaded(contents: Mapping[str, bytes], settings: LatencySettings) -> dict[str, nn.Module]:
    return {name: OnnxRuntimeModel(content, threads=settings.used_threads) for name, content in contents.items()}
