"""`RUNTIMES`: the registry of runtimes in which latency can be measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.registry import Registry
from dfpc_plugin.require import require
from dfpc_plugin.runtimes.graphs import GraphModel, OnnxRuntimeModel, OpenVinoModel
from dfpc_plugin.runtimes.to_onnx import chosen_exporters, onnx_graph, require_exporters

LoadGraph = Callable[[bytes, Sequence[str] | None, int | None], GraphModel]


class RuntimeNameError(DFPCError, ValueError):
    """There is no runtime of this name."""


@dataclass(frozen=True)
class Runtime:
    """A runtime for models.

    Attributes:
        name: In Python, in recipes and on the command line.
        title: The name in texts.
        load: Loads an ONNX graph from its bytes, its input names and a number of threads; None if it runs modules.
        package: The package that it needs, and the extra that installs it; None for PyTorch.
        compiles: Whether modules are compiled by `torch.compile`.
    """

    name: str
    title: str
    load: LoadGraph | None = None
    package: tuple[str, str] | None = None
    compiles: bool = False

    @property
    def summary(self) -> str:
        """Its line in help texts."""
        return self.title

    def require(self) -> None:
        """Raise MissingDependencyError if a package is missing for preparing or running a model."""
        if self.package is not None:
            package, extra = self.package
            require(package, package, extra, f"runtime='{self.name}'")
            require_exporters(chosen_exporters("auto"))

    def prepared(self, model: nn.Module, example_inputs: ExampleInputs, threads: int | None) -> nn.Module:
        """Return what this runtime calls instead of a model: an exported graph, or the model itself.

        The model is not changed, and an already loaded graph is returned as it is. `threads` are CPU threads of a
        graph; None for the runtime's default. Raises ExportError if the model cannot be exported, and
        MissingDependencyError.
        """
        if self.load is None or isinstance(model, GraphModel):
            return model
        content, names = onnx_graph(model, example_inputs)
        return self.load(content, names, threads)

    def calling(self) -> contextlib.AbstractContextManager[object]:
        """The gradient mode in which modules are called."""
        return torch.no_grad() if self.compiles else torch.inference_mode()


RUNTIMES = Registry(
    "runtime",
    Runtime("torch", "PyTorch"),
    Runtime("compile", "torch.compile", compiles=True),
    Runtime("onnxruntime", "ONNX Runtime", OnnxRuntimeModel, ("onnxruntime", "export")),
    Runtime("openvino", "OpenVINO", OpenVinoModel, ("openvino", "openvino")),
)
"""Every runtime by name."""
NUMBERS = ("float32", "int8")
"""Names of the latencies that `quantize_onnx` measures in ONNX Runtime."""


def written(name: str) -> str:
    """How a runtime is written beside a latency. An int8 file is compared by the names in `NUMBERS`, in ONNX Runtime."""
    if name in NUMBERS:
        return f"{RUNTIMES['onnxruntime'].title}, {name}"
    return RUNTIMES[name].title if name in RUNTIMES else name


def runtime_of(name: str) -> Runtime:
    """Return the runtime of that name; raises RuntimeNameError, which names the nearest, if there is none."""
    return RUNTIMES.find(name, RuntimeNameError)
