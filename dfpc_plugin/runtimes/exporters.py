"""PyTorch's two exporters to ONNX, in the order in which they are tried, and their warnings."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.exchange import put
from dfpc_plugin.runtimes.call import FlatCall

EXPORTING = threading.RLock()
"""Held while one of torch's exporters runs, as they replace methods of `nn.Module` in all threads."""

Convert = Callable[[FlatCall, tuple[Tensor, ...], tuple[str, ...], int | None, bool], bytes]
_KNOWN = re.compile(
    # The older exporter is called on purpose if the current one is missing or has failed; a note says so.
    r"You are using the legacy TorchScript-based ONNX export|The feature will be removed"
)


def available(name: str) -> bool:
    """Whether this version of PyTorch has the exporter with the arguments that are needed here."""
    needed = {"dynamo": {"dynamo", "dynamic_shapes", "external_data"}, "torchscript": set()}[name]
    return needed <= set(inspect.signature(torch.onnx.export).parameters)


def _by_dynamo(
    call: FlatCall, flat: tuple[Tensor, ...], outputs: tuple[str, ...], opset: int | None, dynamic_batch: bool
) -> bytes:
    """Export by `torch.export`."""
    shapes = None
    if dynamic_batch:
        batch = torch.export.Dim("batch")
        shapes = {"flat": tuple({0: batch} for _ in flat)}
    options: Any = {"dynamo": True, "dynamic_shapes": shapes, "external_data": False}
    program: Any = torch.onnx.export(
        call, flat, input_names=call.input_names, output_names=outputs, opset_version=opset, verbose=False, **options
    )
    return program.model_proto.SerializeToString()


def _by_torchscript(
    call: FlatCall, flat: tuple[Tensor, ...], outputs: tuple[str, ...], opset: int | None, dynamic_batch: bool
) -> bytes:
    """Export by tracing one forward."""
    axes = {name: {0: "batch"} for name in (*call.input_names, *outputs)} if dynamic_batch else None
    options: Any = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    buffer: Any = io.BytesIO()
    with contextlib.ExitStack() as undo:
        put(undo, torch._C, "_jit_onnx_log", lambda *said: None)  # would print the whole graph if the export fails
        torch.onnx.export(
            call,
            flat,
            buffer,
            input_names=list(call.input_names),
            output_names=list(outputs),
            opset_version=opset,
            dynamic_axes=axes,
            verbose=False,
            **options,
        )
    return buffer.getvalue()


EXPORTERS: Mapping[str, Convert] = {"dynamo": _by_dynamo, "torchscript": _by_torchscript}


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Yield a list that afterwards holds the tracer's warnings; drop known ones, and pass on all others."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    for warning in caught:
        text = str(warning.message)
        if warning.category.__name__ == "TracerWarning":
            place = f"{warning.filename}, line {warning.lineno}"
            said = text.splitlines()[0].rstrip(".!")
            told.append(f"Tracing has fixed what may depend on the input: {said} ({place}).")
        elif not _KNOWN.search(text):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
