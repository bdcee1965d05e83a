"""Run an ONNX model in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.exporting.errors import ExportError
from dfpc_plugin.inputs import as_call
from dfpc_plugin.require import require
from dfpc_plugin.tracing.tree import tensors

__all__ = ["RuntimeModel"]


class RuntimeModel(nn.Module):
    """An ONNX model that is called as the model it was exported from."""

    def __init__(self, content: bytes, input_names: Sequence[str], threads: int | None = None) -> None:
        """Load `content`.

        Args:
            content: The bytes of an ONNX file.
            input_names: What the tensors of the example inputs are called in it; it may lack those that it
                does not use.
            threads: CPU threads; None for onnxruntime's own choice.

        Raises:
            ExportError: onnxruntime cannot load it.
            MissingDependencyError: onnxruntime is not installed.
        """
        super().__init__()
        onnxruntime = require("onnxruntime", "onnxruntime", "export")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone: its warnings are about graphs that it then optimises itself
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise ExportError(f"onnxruntime cannot load the exported model: {error}") from error
        self._input_names = tuple(input_names)
        self._used = {value.name for value in self._session.get_inputs()}

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run it; return its outputs, in order.

        Raises:
            ExportError: onnxruntime cannot run it.
        """
        named = zip(self._input_names, tensors((args, kwargs)), strict=True)
        try:
            outputs = self._session.run(None, {name: value.numpy() for name, value in named if name in self._used})
        except Exception as error:  # as above
            raise ExportError(f"onnxruntime cannot run the exported model: {error}") from error
        return tuple(torch.from_numpy(output) for output in outputs)

    def outputs(self, inputs: Any) -> tuple[Tensor, ...]:
        """Run it on example inputs."""
        args, kwargs = as_call(inputs)
        return self(*args, **kwargs)
