"""Check whether a model has changed since something was computed for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn


class ModelState:
    """A record of a model's structure and weights that is cheap to check; `names` has the dotted path of every module.

    Identity, storage, shape and version counter of every parameter and buffer show optimiser steps, loading and pruning. They
    do not show writes through `.data`. So for the layers in question, contents are compared as well, by one weighted sum per
    row, and so are settings, such as a stride.
    """

    def __init__(self, model: nn.Module) -> None:
        """Record the present `model`."""
        self.names = {module: name for name, module in model.named_modules()}
        tables = [t for module in self.names for t in (module._parameters, module._buffers, module._modules)]
        self._outlines = [(table, _outline(table)) for table in tables if table]
        self._empty = [table for table in tables if not table]
        self._contents = {module: _row_sums(module) for module in self.names}
        self._settings = {module: _settings(module) for module in self.names}

    def holds_for(self, layers: Iterable[nn.Module]) -> bool:
        """Tell whether nothing has changed that a score of `layers` depends on; contents of other layers are not compared."""
        if any(self._empty) or any(_outline(table) != outline for table, outline in self._outlines):
            return False
        for layer in layers:
            now = layer.__dict__
            if any(now.get(name) != value for name, value in self._settings[layer].items()):
                return False
            pairs = zip(_row_sums(layer), self._contents[layer], strict=True)
            if not all(torch.equal(mine, recorded) for mine, recorded in pairs):
                return False
        return True


def _outline(table: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """A module's parameters, buffers or children, as far as known without reading tensors."""
    return [
        (name, id(value), value.data_ptr(), 0 if value.is_inference() else value._version, value.shape)
        if isinstance(value, Tensor)
        else (name, id(value))
        for name, value in table.items()
    ]


def _settings(module: nn.Module) -> dict[str, Any]:
    """A module's own numbers, strings and tuples, which its forward may use, without the training flag."""
    plain = (bool, int, float, str, tuple)
    return {name: value for name, value in module.__dict__.items() if name != "training" and isinstance(value, plain)}


def _row_sums(module: nn.Module) -> list[Tensor]:
    """The contents of a module's own parameters and buffers, as weighted sums."""
    return [_contents(t) for table in (module._parameters, module._buffers) for t in table.values() if t is not None]


def _contents(tensor: Tensor) -> Tensor:
    """One number per row, which depends on all elements and their order; small tensors are copied."""
    tensor = tensor.detach()
    if tensor.is_complex():  # real and imaginary part
        tensor = torch.view_as_real(tensor)
    if tensor.dim() < 2:
        return tensor.clone()
    rows = tensor.flatten(1)
    return rows.float() @ _weights(rows.shape[1], rows.device)


@lru_cache(maxsize=64)
def _weights(length: int, device: torch.device) -> Tensor:
    return torch.arange(1, length + 1, dtype=torch.float32, device=device).sin()
