"""Run the graph of an ONNX file in ONNX Runtime or OpenVINO, and make inputs for it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.errors import ExampleInputsError
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.require import require
from dfpc_plugin.runtimes.errors import ExportError
from dfpc_plugin.tracing.tree import tensors

Arrays = Mapping[str, Any]
"""NumPy arrays by the names of a graph's inputs."""
_SEED = 0


class GraphModel(nn.Module):
    """An ONNX graph, loaded by a runtime on the CPU and called like the model it was exported from.

    Attributes:
        runtime: The runtime's name.
        title: The runtime's name in texts.
        input_names: The graph's names of the example inputs' tensors.
        input_shapes: Shapes of the inputs that the graph uses, by name; None for an axis of any length.
        input_dtypes: NumPy's names of their dtypes.
    """

    runtime: str
    title: str
    input_names: tuple[str, ...]

    def __init__(self) -> None:
        """Begin without inputs."""
        super().__init__()
        self.input_shapes: dict[str, tuple[int | None, ...]] = {}
        self.input_dtypes: dict[str, str] = {}

    @abstractmethod
    def run(self, arrays: Arrays) -> Sequence[Any]:
        """Run the graph on NumPy arrays; return its outputs as arrays, in order."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the graph; return its outputs in order, or raise ExportError if the runtime cannot run it."""
        arrays = self._arrays((args, kwargs))
        try:
            outputs = self.run(arrays)
        except Exception as error:  # the exceptions of runtimes share no base class
            raise ExportError(f"{self.title} cannot run the exported model: {error}") from error
        return tuple(torch.from_numpy(output) for output in outputs)

    def outputs(self, inputs: Any) -> tuple[Tensor, ...]:
        """Run the graph on example inputs."""
        args, kwargs = as_call(inputs)
        return self(*args, **kwargs)

    def bound(self, inputs: Any) -> Callable[[], Sequence[Any]]:
        """Return a function that runs the graph on these example inputs and does nothing else, for timing."""
        arrays = self._arrays(as_call(inputs))
        self.forward(*as_call(inputs)[0], **as_call(inputs)[1])  # raises ExportError if it cannot run
        return lambda: self.run(arrays)

    def _arrays(self, inputs: Any) -> dict[str, Any]:
        named = zip(self.input_names, tensors(inputs), strict=True)
        return {name: value.detach().cpu().numpy() for name, value in named if name in self.input_shapes}


class OnnxRuntimeModel(GraphModel):
    """A graph in ONNX Runtime."""

    runtime, title = "onnxruntime", "ONNX Runtime"

    def __init__(self, content: bytes, input_names: Sequence[str] | None = None, threads: int | None = None) -> None:
        """Load the bytes of an ONNX file; raises ExportError if ONNX Runtime cannot.

        `input_names` are the graph's names of the example inputs' tensors, also of those that it does not use; None for
        the graph's own inputs in order. `threads` are CPU threads; None for ONNX Runtime's default.
        """
        super().__init__()
        onnxruntime = require("onnxruntime", "onnxruntime", "export")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: its warnings are about parts that it then optimises itself
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise ExportError(f"ONNX Runtime cannot load the exported model: {error}") from error
        for value in self._session.get_inputs():
            self.input_shapes[value.name] = tuple(own if isinstance(own, int) else None for own in value.shape)
            self.input_dtypes[value.name] = _dtype(value.type)
        self.input_names = tuple(self.input_shapes if input_names is None else input_names)

    def run(self, arrays: Arrays) -> Sequence[Any]:
        """Run the session."""
        outputs: Sequence[Any] = self._session.run(None, arrays)
        return outputs


class OpenVinoModel(GraphModel):
    """A graph in OpenVINO, on the CPU."""

    runtime, title = "openvino", "OpenVINO"

    def __init__(self, content: bytes, input_names: Sequence[str] | None = None, threads: int | None = None) -> None:
        """Load `content`; arguments and errors are as for `OnnxRuntimeModel`."""
        super().__init__()
        openvino = require("openvino", "openvino", "openvino")
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(content), "CPU", settings)
        except Exception as error:  # it raises RuntimeError and subclasses of its own
            raise ExportError(f"OpenVINO cannot load the exported model: {error}") from error
        self._request: Any = compiled.create_infer_request()
        self._outputs: Any = compiled.outputs
        for port in compiled.inputs:
            axes = port.partial_shape
            self.input_shapes[port.any_name] = tuple(None if axis.is_dynamic else axis.get_length() for axis in axes)
            self.input_dtypes[port.any_name] = port.element_type.to_dtype().name
        self.input_names = tuple(self.input_shapes if input_names is None else input_names)

    def run(self, arrays: Arrays) -> Sequence[Any]:
        """Run the request."""
        found = self._request.infer(arrays, share_inputs=True)
        return [found[output] for output in self._outputs]


def _dtype(kind: str) -> str:
    """NumPy's name for ONNX Runtime's "tensor(float)"."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def graph_inputs(graph: GraphModel, batch_size: int, size: int | None = None) -> tuple[Tensor, ...]:
    """Make random inputs of the shapes that a graph states, and zeros for integers.

    Dynamic axes have the length `batch_size` if they are the first, or else `size`, the height and width of images.
    Raises ExampleInputsError if a length is not given, or differs from the graph's own.
    """
    generator = torch.Generator().manual_seed(_SEED)
    found = []
    for name, axes in graph.input_shapes.items():
        if axes and axes[0] not in (None, batch_size):
            raise ExampleInputsError(
                f"The input '{name}' of the ONNX file has a batch of {axes[0]}, and {batch_size} was asked for; give "
                f"batch_size {axes[0]}."
            )
        if size is not None and any(length not in (None, size) for length in axes[2:]):
            raise ExampleInputsError(
                f"The input '{name}' of the ONNX file is {_shown(axes)}, and a size of {size} was asked for; leave size out."
            )
        lengths = [batch_size if number == 0 else length or size for number, length in enumerate(axes)]
        shape = [length for length in lengths if length is not None]
        if len(shape) < len(lengths):
            raise ExampleInputsError(
                f"The input '{name}' of the ONNX file has axes of any length, {_shown(axes)}; give size."
            )
        dtype = getattr(torch, graph.input_dtypes[name])
        if dtype.is_floating_point:
            found.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            found.append(torch.zeros(shape, dtype=dtype))
    return tuple(found)


def require_inputs(graph: GraphModel, inputs: ExampleInputs) -> None:
    """Raise ExampleInputsError unless a graph takes this number of tensors, of these shapes."""
    given = [tuple(tensor.shape) for tensor in tensors(as_call(inputs))]
    taken = [graph.input_shapes[name] for name in graph.input_names]
    fits = len(given) == len(taken) and all(
        len(shape) == len(axes) and all(axis in (None, length) for axis, length in zip(axes, shape, strict=True))
        for shape, axes in zip(given, taken, strict=True)
    )
    if not fits:
        shapes = " and ".join(map(_shown, taken))
        raise ExampleInputsError(
            f"The ONNX file takes {shapes}, and is to be given {' and '.join(map(_shown, given))}; give its batch_size and size."
        )


def _shown(axes: tuple[int | None, ...]) -> str:
    """A shape with "any" for a dynamic axis."""
    return "x".join("any" if length is None else str(length) for length in axes)
