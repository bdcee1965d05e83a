"""Make inputs for the graph of an ONNX file from its stated shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from dfpc_plugin.errors import ExampleInputsError
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.runtimes.graphs import GraphModel
from dfpc_plugin.tracing.tree import tensors

_SEED = 0


def graph_inputs(graph: GraphModel, batch_size: int, size: int | None = None) -> tuple[Tensor, ...]:
    """Make random inputs of the shapes that a graph states, and zeros for integers.

    Args:
        graph: The graph.
        batch_size: Length of the first axis, if that is dynamic.
        size: Height and width of images, if these are dynamic.

    Raises:
        ExampleInputsError: A dynamic axis has no given length, or the graph's batch or size differs from the given one.
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
