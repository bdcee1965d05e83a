"""Example inputs and preprocessing of models."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from dfpc_plugin.models.catalogue import library_of
from dfpc_plugin.models.library import Preprocessing


def example_inputs(
    model: nn.Module,
    name: str,
    *,
    batch_size: int = 1,
    size: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Return inputs that `model` can be called with; for a detector, a batch of images.

    Args:
        model: The model, as built by `build_model`.
        name: The name it was built by.
        batch_size: Number of images, clips or pairs of images.
        size: Height and width in pixels, instead of the model's own size.
        device: Where to make them; by default the device of the model's parameters.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    made = tuple(
        torch.ones(batch_size, *shape, device=device or parameter.device, dtype=parameter.dtype)
        for shape in library_of(name).shapes(model, name, size)
    )
    return made if len(made) > 1 else made[0]


def preprocessing_of(model: nn.Module, name: str, size: int | None = None) -> Preprocessing:
    """Return how images are prepared for `model`, according to the library that built it.

    Args:
        model: The model, as built by `build_model`.
        name: The name it was built by.
        size: Height and width in pixels, instead of the model's own size.
    """
    found = library_of(name).preprocessing(model, name)
    return found if size is None else dataclasses.replace(found, size=(found.size[0], size, size))
