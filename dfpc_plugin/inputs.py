"""Example inputs: how a model is called, written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dfpc_plugin.errors import ExampleInputsError
from dfpc_plugin.tracing.tree import map_tensors, tensors

__all__ = ["ExampleInputs", "as_call", "described", "fresh", "is_written_to"]

ExampleInputs = torch.Tensor | Sequence[Any] | Mapping[str, Any]
"""A tensor for `model(x)`, a tuple or list for `model(*xs)`, a dict for `model(**xs)`."""


def as_call(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that `example_inputs` stands for.

    Raises:
        ExampleInputsError: It is neither a tensor nor a tuple, list or dict.
    """
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    raise ExampleInputsError(
        f"example_inputs must be a tensor, a tuple or list of arguments, or a dict of keyword arguments, "
        f"not {type(example_inputs).__name__}; for an image model: torch.randn(1, 3, 224, 224)."
    )


def described(inputs: Any) -> str:
    """The shapes and types of the tensors in `inputs`, for a sentence."""
    found = [f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in tensors(inputs)]
    return f"inputs {', '.join(found[:4])}{', ...' if len(found) > 4 else ''}" if found else "inputs without tensors"


def fresh(inputs: Any) -> Any:
    """Copy the tensors of `inputs`, for one call of a model: some forwards write to what they are given.

    A nest of lists, tuples and dicts keeps its structure; a copy of a tensor with a graph is part of that graph.
    """
    return map_tensors(torch.Tensor.clone, inputs)


def is_written_to(copy: Any, inputs: Any) -> bool:
    """Whether a call has written to the tensors of `copy`, which `fresh(inputs)` returned before it."""
    pairs = zip(tensors(copy), tensors(inputs), strict=True)
    return any(one.shape != other.shape or not torch.equal(one, other) for one, other in pairs)
