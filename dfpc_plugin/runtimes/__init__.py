"""Runtimes: PyTorch, and ONNX graphs in ONNX Runtime or OpenVINO."""

from dfpc_plugin.runtimes.errors import ExportError
from dfpc_plugin.runtimes.graphs import GraphModel
from dfpc_plugin.runtimes.registry import RUNTIMES, Runtime, RuntimeNameError, runtime_of, written

__all__ = ["RUNTIMES", "ExportError", "GraphModel", "Runtime", "RuntimeNameError", "runtime_of", "written"]
