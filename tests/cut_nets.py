"""Small models with everything that a cut has to mend."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfpc_plugin.couplings import CouplingMap
from zero_cut import state

IMAGE = torch.rand(2, 3, 4, 4, dtype=torch.float64)
TOKENS = torch.rand(2, 5, 3, dtype=torch.float64)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(6, 4, 3, padding=1, groups=2)
        self.second = nn.Conv2d(4, 6, 1)
        self.slopes = nn.PReLU(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.norm(self.stem(x)))
        x = x + self.second(self.first(x))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = 2, 4, 0.5
        self.sizes = [8, 8, 8]
        self.shape = (8,)
        self.embed = nn.Linear(3, 6)
        self.norm = nn.LayerNorm(6)
        self.qkv = nn.Linear(6, 24)
        self.inner = nn.LayerNorm(self.shape)
        self.proj = nn.Linear(8, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, _ = x.shape
        parts = self.qkv(self.norm(x)).split(self.sizes, -1)
        q, k, v = (p.reshape(b, n, self.num_heads, self.head_dim).transpose(1, 2) for p in parts)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(x + self.proj(self.inner(y.transpose(1, 2).flatten(2))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 6)
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 5, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("mask", torch.ones(6))
        self.register_buffer("unsaved", torch.full((6,), 2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x) * self.mask
        return self.head(x + self.second(self.first(x).sin()) * self.unsaved)


def built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double().eval()


def inputs_of(model: nn.Module) -> Tensor:
    if isinstance(model, Tied):
        return torch.tensor([[0, 3, 1], [2, 2, 4]])
    return IMAGE if isinstance(model, Residual) else TOKENS


def only(couplings: CouplingMap, tensor: str, dim: int = 0) -> int:
    """Position of the coupling that holds a dimension."""
    (number,) = [
        number
        for number, coupling in enumerate(couplings.couplings)
        if any((piece.tensor, piece.dim) == (tensor, dim) for piece in coupling.slices)
    ]
    return number


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that a cut may touch."""
    found: dict[str, Any] = {}
    for name, tensor in state(model).items():
        found[name] = (id(tensor), tensor.data_ptr(), tensor.detach().clone())
        found[f"{name}.grad"] = None if tensor.grad is None else tensor.grad.clone()
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, int | float | tuple | list | str):
                found[f"{path}.{name}"] = (type(value), copy.copy(value))
    return found


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        other = second[name]
        if isinstance(value, tuple) and isinstance(value[-1], Tensor):
            assert value[:2] == other[:2] and torch.equal(value[2], other[2]), name
        elif isinstance(value, Tensor):
            assert torch.equal(value, other), name
        else:
            assert value == other, name


def with_gradients(model: nn.Module) -> nn.Module:
    outputs_with_grad = model(inputs_of(model))
    outputs_with_grad.square().sum().backward()
    return model
