"""Tell whether a model still is the one that something was computed for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

__all__ = ["ModelState"]


class ModelState:
    """A record of a model's weights, cheap to check.

    Identity, shape and version counter of every parameter and buffer show optimiser steps, loading and pruning. They do
    not show writes through `.data`, so the contents of the layers that a caller asks about are compared as well, by
    one weighted sum per row.
    """

    def __init__(self, model: nn.Module) -> None:
        """Record `model` as it is now; keeps one number per output channel of every tensor."""
        self._outline = _outline(model)
        self._contents = {name: _contents(tensor) for name, tensor in _tensors(model)}

    def holds_for(self, model: nn.Module, layers: Iterable[str]) -> bool:
        """Tell whether nothing that a score of `layers` depends on has changed since.

        Args:
            model: The recorded model.
            layers: Dotted paths of the modules whose own tensors are compared by content.
        """
        if _outline(model) != self._outline:
            return False
        modules = dict(model.named_modules())
        for layer in layers:
            prefix = f"{layer}." if layer else ""
            for name, tensor in _own_tensors(modules[layer]):
                if not torch.equal(_contents(tensor), self._contents[prefix + name]):
                    return False
        return True


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _outline(model: nn.Module) -> list[tuple[str, int, int, torch.Size]]:
    """Everything about the tensors that can be told without reading them."""
    return [
        (name, id(tensor), 0 if tensor.is_inference() else tensor._version, tensor.shape)
        for name, tensor in _tensors(model)
    ]


def _contents(tensor: Tensor) -> Tensor:
    """One number per row that changes with any entry and with the order of entries; small tensors as they are."""
    tensor = tensor.detach()
    if tensor.dim() < 2:
        return tensor.clone()
    rows = tensor.flatten(1)
    return rows.float() @ _weights(rows.shape[1], rows.device)


@lru_cache(maxsize=64)
def _weights(length: int, device: torch.device) -> Tensor:
    """Weights without a pattern that weights of a network could have."""
    return torch.arange(1, length + 1, dtype=torch.float32, device=device).sin()
