"""Importances that are written down, and what there is to compare of models."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from residual_net import Network

PIXELS = torch.rand(1, 3, 8, 8)


class Table:
    """Scores as they are written down, by layer and output, for our groups and for Torch-Pruning's own."""

    def __init__(self, scores: Mapping[str, Sequence[float]]) -> None:
        self.scores = {name: torch.tensor(values, dtype=torch.float64) for name, values in scores.items()}

    def __call__(self, group: Any) -> Tensor | None:
        names = {module: name for name, module in group._DG.model.named_modules()}
        for dep, idxs in group:
            name = names.get(dep.target.module)
            if name in self.scores and group._DG.is_out_channel_pruning_fn(dep.handler):
                return self.scores[name][torch.tensor(idxs)]
        return None


class Fixed:
    """A score for every unit that stays what it is whatever else is cut."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.scores: dict[str, Tensor] = {}

    def __call__(self, group: Any) -> Tensor:
        (coupling,), (units,) = group.couplings, group.units
        if coupling.name not in self.scores:
            self.scores[coupling.name] = torch.rand(coupling.channels, generator=self.generator)
        return self.scores[coupling.name][units]


def heads_first(group: Any) -> Tensor:
    """Scores that let whole heads go before all else."""
    scores = torch.rand(len(group.units[0]), generator=torch.Generator().manual_seed(len(group.units[0])))
    return scores - int(group.couplings[0].whole_heads)


def network(seed: int = 0) -> nn.Module:
    """A small residual network with two blocks; every weight, bias and statistic is random."""
    torch.manual_seed(seed)
    model = Network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


def widths(model: nn.Module) -> dict[str, int]:
    """Outputs by layer."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)}
    return {name: layer.weight.shape[0] for name, layer in layers.items()}


def everything(model: nn.Module) -> dict[str, Any]:
    """Whatever pruning might change: tensors with their identity and gradients, attributes, modes, hooks."""
    found: dict[str, Any] = {}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        grad = None if tensor.grad is None else tensor.grad.clone()
        found[name] = (id(tensor), tensor.requires_grad, tensor.detach().clone(), grad)
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            plain = isinstance(value, int | float | str | tuple | list | None)
            found[f"{path}:{name}"] = (
                copy.copy(value) if plain else sorted(value) if isinstance(value, dict) else id(value)
            )
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two records of `everything` agree."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
