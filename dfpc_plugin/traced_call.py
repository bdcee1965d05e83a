"""Store the example inputs of a Torch-Pruning dependency graph.

Torch-Pruning gives an importance the group to score, which leads to the graph and the model, but not to the example inputs of
the pruner. To ask the user twice would allow mismatches. So `DependencyGraph.build_dependency` is wrapped once, when this
module is imported, to store the inputs' shapes on the graph. This is the only change to Torch-Pruning, and it is unavoidable:
the graph keeps neither inputs nor shapes, the pruner does not pass itself to its importance, and the importance is not called
before the graph exists.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor

from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.tracing.tree import map_tensors, tensors

_ATTRIBUTE = "_dfpc_traced_call"


@dataclass(frozen=True)
class TracedCall:
    """How a graph's model is called: example inputs without their values (masks keep theirs), and `forward_fn`."""

    example_inputs: ExampleInputs
    forward_fn: ForwardFunction | None

    @property
    def signature(self) -> tuple[Any, ...]:
        """What scores depend on: shapes, dtypes and the function."""
        return (*((tensor.shape, tensor.dtype) for tensor in tensors(self.example_inputs)), id(self.forward_fn))


def traced_call(graph: tp.DependencyGraph) -> TracedCall | None:
    """Return the call that `graph` was built with, or None if it was built before this package was imported."""
    return getattr(graph, _ATTRIBUTE, None)


def _without_values(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape, dtype and device that takes no memory; masks are kept."""
    if tensor.dtype == torch.bool:
        return tensor
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


def noting(build: Callable[..., tp.DependencyGraph]) -> Callable[..., tp.DependencyGraph]:
    """Wrap `build_dependency` so that it stores its call on the graph."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def build_dependency(self: tp.DependencyGraph, *args: Any, **kwargs: Any) -> tp.DependencyGraph:
        arguments = signature.bind(self, *args, **kwargs).arguments
        inputs = map_tensors(_without_values, arguments["example_inputs"])
        setattr(self, _ATTRIBUTE, TracedCall(inputs, arguments.get("forward_fn")))
        return build(self, *args, **kwargs)

    build_dependency._notes_traced_call = True  # type: ignore[attr-defined]
    return build_dependency


if not hasattr(tp.DependencyGraph.build_dependency, "_notes_traced_call"):
    tp.DependencyGraph.build_dependency = noting(tp.DependencyGraph.build_dependency)
