"""Example inputs: how a model is called with them, and error messages if they do not fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from dfpc_plugin.errors import DFPCError, ExampleInputsError, ForwardError, RuleError
from dfpc_plugin.tracing.tree import map_tensors, tensors

_COLOURS = (1, 3, 4)
_MOST_CHANNELS = 16
"""Maximum number of channels of an image; a first convolution with more need not be the first that runs."""

ExampleInputs = torch.Tensor | Sequence[Any] | Mapping[str, Any]
"""A tensor for `model(x)`, a tuple or list for `model(*xs)`, a dict for `model(**xs)`."""


def as_call(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return `example_inputs` as positional and keyword arguments; raises ExampleInputsError for other types."""
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


def as_inputs(example_inputs: Any) -> ExampleInputs:
    """Convert NumPy arrays in `example_inputs` to tensors, floats to torch's default dtype.

    Raises:
        ExampleInputsError: A model cannot be called with it; the message says what to give.
    """
    if isinstance(example_inputs, DataLoader):
        raise ExampleInputsError("example_inputs is a DataLoader; give the images of one batch: next(iter(loader))[0].")
    if isinstance(example_inputs, tuple | list) and example_inputs and all(type(n) is int for n in example_inputs):
        sizes = ", ".join(map(str, example_inputs))
        raise ExampleInputsError(f"example_inputs is a shape; give a tensor of it: torch.randn({sizes}).")
    if isinstance(example_inputs, np.ndarray):
        example_inputs = _as_tensor(example_inputs)
    elif isinstance(example_inputs, Mapping) and any(
        isinstance(value, np.ndarray) for value in example_inputs.values()
    ):
        example_inputs = {key: _as_tensor(value) for key, value in example_inputs.items()}
    elif isinstance(example_inputs, tuple | list) and any(isinstance(value, np.ndarray) for value in example_inputs):
        example_inputs = tuple(map(_as_tensor, example_inputs))
    as_call(example_inputs)
    given: ExampleInputs = example_inputs
    return given


def _as_tensor(value: Any) -> Any:
    """Convert an array to a tensor; raise ExampleInputsError for one picture with its channels last."""
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim == 3 and value.shape[-1] in _COLOURS and value.shape[0] not in _COLOURS:
        raise ExampleInputsError(
            f"example_inputs is a picture of shape {value.shape}, channels last; give a batch with channels first: "
            f"torch.from_numpy(image).permute(2, 0, 1)[None].float()."
        )
    tensor = torch.from_numpy(np.ascontiguousarray(value).copy())
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


@contextlib.contextmanager
def inputs_explained(model: nn.Module, example_inputs: ExampleInputs) -> Iterator[None]:
    """Explain why a call of `model` fails if its inputs do not fit.

    Raises:
        ExampleInputsError: Replaces the call's error if the reason is obvious.
    """
    try:
        yield
    except Exception as error:  # a forward may raise anything
        if isinstance(error, DFPCError) and not isinstance(error, RuleError | ForwardError):
            raise
        fault = _fault(model, *as_call(example_inputs))
        if fault is None:
            raise
        cause = error.__cause__ if isinstance(error, DFPCError) and error.__cause__ is not None else error
        first = next(iter(str(cause).splitlines()), "").rstrip(".")
        raise ExampleInputsError(f"example_inputs {fault} ({type(cause).__name__}: {first}).") from error


def _fault(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """What is wrong with refused inputs, and what to give; None if it is not obvious."""
    if kwargs or not args or not isinstance(args[0], torch.Tensor):
        return None
    x, shape = args[0], tuple(args[0].shape)
    if len(args) == 2:
        labels = args[1]
        both = isinstance(labels, torch.Tensor) and labels.dim() == 1 and len(labels) == len(x)
        return "holds images and labels; give the images alone" if both and not labels.is_floating_point() else None
    first = next(((path, m) for path, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is None or len(args) > 1:
        return None
    path, layer = first
    channels, axes = layer.in_channels, layer.weight.dim()
    takes = f"'{path}', the model's first convolution, takes {channels}"
    if x.dim() == axes - 1:
        return f"has the shape {shape}, without an axis for the batch; give x[None]"
    if x.dim() == axes + 1 and x.shape[0] == 1:
        return f"has the shape {shape}, with an axis too many; give x[0]"
    if x.dim() == axes and channels <= _MOST_CHANNELS and x.shape[1] != channels:
        if x.shape[-1] == channels:
            return f"has the shape {shape}, channels last; give x.movedim(-1, 1)"
        return f"has {x.shape[1]} channel{'s' * (x.shape[1] != 1)}, and {takes}; give as many, or build the model for {x.shape[1]}"
    if weight is not None and x.dtype != weight.dtype:
        return f"is of {x.dtype}, and the model's weights of {weight.dtype}; give x.to({weight.dtype})"
    return None


def shapes_of(example_inputs: ExampleInputs) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the tensors, in order."""
    return tuple(tuple(tensor.shape) for tensor in tensors(example_inputs))


def described(inputs: Any) -> str:
    """Return shapes and types of the tensors in `inputs` as a part of a sentence."""
    found = [f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in tensors(inputs)]
    return f"inputs {', '.join(found[:4])}{', ...' if len(found) > 4 else ''}" if found else "inputs without tensors"


def fresh(inputs: Any) -> Any:
    """Copy the tensors of `inputs`, which some forwards write to; copies stay connected to the autograd graph."""
    return map_tensors(torch.Tensor.clone, inputs)


def is_written_to(copy: Any, inputs: Any) -> bool:
    """Whether a call has written to the tensors of `copy`, which `fresh(inputs)` returned before it."""
    pairs = zip(tensors(copy), tensors(inputs), strict=True)
    return any(one.shape != other.shape or not torch.equal(one, other) for one, other in pairs)
