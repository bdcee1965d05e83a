"""Inputs for the graph of an ONNX file, of which nothing else is known."""

from __future__ import annotations

import torch
from torch import Tensor

from dfpc_plugin.errors import ExampleInputsError
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.runtimes.graphs import GraphModel
from dfpc_plugin.tracing.tree import tensors

__all__ = ["graph_inputs", "require_inputs"]

_SEED = 0


def graph_inputs(graph: GraphModel, batch_size: int, size: int | None = None) -> tuple[Tensor, ...]:
    """Make noise of the shapes that a graph states, and zeros for its integers.

    Args:
        graph: The graph.
        batch_size: The length of the first axis, where that is free.
        size: Height and width of images, where these are free.

    Raises:
        ExampleInputsError: An axis is free and no length is given for it, or the graph's batch or size is another.
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
    """Raise unless a graph takes these inputs.

    Raises:
        ExampleInputsError: It takes another number of tensors, or tensors of other shapes.
    """
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
    """A shape with "any" for a free axis."""
    return "x".join("any" if length is None else str(length) for length in axes)
