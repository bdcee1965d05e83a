"""Inputs to repair on, in batches, whatever they come as."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.errors import RepairError
from dfpc_plugin.flow.tree import map_tensors, tensors
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.settings import Images

__all__ = ["DEFAULT_COUNT", "collected", "unseen_part"]

DEFAULT_COUNT = 256
_PIXELS = 2**22
"""Numbers in one batch, at most: 128 images of 3 x 104 x 104."""


def collected(images: Images, count: int, model: nn.Module) -> list[ExampleInputs]:
    """Take `count` inputs, in batches of bounded size, on the model's device and in its precision.

    A tensor or a dict is one batch; anything else is iterated over. A batch that is a tuple or list stands for its first
    entry, as data loaders give labels beside images.

    Raises:
        RepairError: There are none, or they are no tensors.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    found: list[ExampleInputs] = []
    missing = count
    batches: Iterable[Any] = [images] if isinstance(images, Tensor | Mapping) else images
    try:
        iterator = iter(batches)
    except TypeError:
        raise RepairError(f"images is a {type(images).__name__}; give a tensor, a dict, or batches to iterate over.") from None
    for batch in iterator:
        batch = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
        if not isinstance(batch, Tensor | Mapping) or not tensors(batch) or any(t.dim() == 0 for t in tensors(batch)):
            raise RepairError(f"A batch of images is a {type(batch).__name__}; batches are tensors, alone or before labels.")
        size = min(len(tensors(batch)[0]), missing)
        each = sum(t[:1].numel() for t in tensors(batch))
        step = max(1, _PIXELS // max(1, each))
        for start in range(0, size, step):
            part = slice(start, min(start + step, size))
            found.append(map_tensors(functools.partial(_part, part=part, like=parameter), batch))
        missing -= size
        if not missing:
            break
    if count - missing < 2:
        raise RepairError(f"There are {count - missing} images; give two or more.")
    if not all(bool(torch.isfinite(t).all()) for batch in found for t in tensors(batch) if t.is_floating_point()):
        raise RepairError("Some images hold values that are not finite; leave these out.")
    return found


def unseen_part(batches: Sequence[ExampleInputs]) -> list[ExampleInputs]:
    """The last quarter of every batch, of which no row is fitted to."""
    return [map_tensors(lambda t: t[len(t) - max(1, len(t) // 4) :], batch) for batch in batches]


def _part(tensor: Tensor, part: slice, like: Tensor) -> Tensor:
    """Some inputs, where and in what precision the model is."""
    tensor = tensor[part]
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
