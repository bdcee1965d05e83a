"""Wrap a model as a function from a flat list of tensors to another, as graph files need it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.advice import setting
from dfpc_plugin.errors import ExampleInputsError
from dfpc_plugin.inputs import ExampleInputs, as_call, as_inputs, fresh, inputs_explained
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.tracing.tree import map_tensors, tensors
from dfpc_plugin.wrappers import HoldsModel, as_model


class FlatCall(nn.Module):
    """Calls a model with the tensors of its example inputs as positional arguments; other values stay as given.

    Attributes:
        model: The model.
        input_names: One name per tensor: its keyword, or "input"; numbered if there are several.
    """

    def __init__(self, model: nn.Module, example_inputs: ExampleInputs) -> None:
        """Learn from `example_inputs` how the model is called."""
        super().__init__()
        self.model = model
        self.training = model.training
        self._inputs = example_inputs
        self.input_names = _input_names(example_inputs)

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """Call the model; return its tensors in order."""
        given = iter(flat)
        args, kwargs = as_call(map_tensors(lambda _: next(given), self._inputs))
        return tuple(tensors(self.model(*args, **kwargs)))

    def outputs(self, inputs: ExampleInputs) -> dict[str, Tensor]:
        """Call the model without gradients; return its tensors by name, detached.

        Raises ExampleInputsError if there are none.
        """
        args, kwargs = as_call(fresh(inputs))
        with inputs_explained(self.model, inputs), torch.no_grad():
            returned = self.model(*args, **kwargs)
        found = [tensor.detach() for tensor in tensors(returned)]
        if not found:
            raise ExampleInputsError("The model returns no tensor for these inputs; there is nothing to export.")
        return dict(zip(_output_names(returned, len(found)), found, strict=True))


def _input_names(example_inputs: ExampleInputs) -> tuple[str, ...]:
    """A name for every tensor of the example inputs; raises ExampleInputsError if there is none."""
    args, kwargs = as_call(example_inputs)
    names = [*_numbered("input", len(tensors(args)))]
    for keyword, value in kwargs.items():
        names += _numbered(keyword, len(tensors(value)))
    if not names:
        raise ExampleInputsError("The example inputs hold no tensor that the exported model could be fed; pass some.")
    return tuple(names)


def _output_names(returned: Any, count: int) -> list[str]:
    if isinstance(returned, Mapping) and all(isinstance(value, Tensor) for value in returned.values()):
        return [str(name) for name in returned]
    return list(_numbered("output", count))


def _numbered(name: str, count: int) -> Iterator[str]:
    return (name if count == 1 else f"{name}_{index}" for index in range(count))


def on_cpu(model: nn.Module | HoldsModel, example_inputs: ExampleInputs) -> tuple[nn.Module, ExampleInputs]:
    """Return copies of a model, in evaluation mode, and its inputs on the CPU, which an exporter may change."""
    model = as_model(model)
    inputs = map_tensors(lambda tensor: tensor.detach().cpu().clone(), as_inputs(example_inputs))
    with exclusive(model):
        return copy.deepcopy(model).cpu().eval(), inputs


def batch_size_of(example_inputs: ExampleInputs) -> int:
    """Return the length of axis zero; raises ExampleInputsError if the tensors do not share it."""
    found = tensors(as_call(example_inputs))
    sizes = {tensor.size(0) if tensor.dim() else None for tensor in found}
    if len(sizes) != 1 or None in sizes:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
        raise ExampleInputsError(
            f"A batch of any size needs example inputs that share the length of axis zero, and these have "
            f"shapes {shapes}; pass {setting('dynamic_batch', False)}."
        )
    return next(iter(sizes)) or 0


def with_batch(example_inputs: ExampleInputs, size: int) -> ExampleInputs:
    """Repeat example inputs to `size` along axis zero."""

    def resized(tensor: Tensor) -> Tensor:
        return tensor[torch.arange(size) % tensor.size(0)]

    return map_tensors(resized, example_inputs)
