"""Positions that every channel has of its own: whoever reads or writes there loses the same channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dfpc_plugin as dfpc
from brute_force import Between
from dfpc_plugin.couplings import map_couplings
from zero_cut import error_of_cut, random_units

X = torch.rand(2, 3, 4, 4, dtype=torch.float64) - 0.5
PLACES = torch.tensor([0, 1, 1, 0])
Function = Callable[[Tensor, Tensor], Tensor]


def picked(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor.flatten(2).gather(2, index).reshape(*tensor.shape[:2], -1, 4)


def canvas(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor.flatten(2))


TIED: dict[str, Function] = {
    "topk": lambda a, b: picked(b, a.flatten(2).topk(4, -1)[1]),
    "topk by name": lambda a, b: picked(b, a.flatten(2).topk(4, -1).indices),
    "sort": lambda a, b: picked(b, a.flatten(2).sort(-1)[1]),
    "argsort": lambda a, b: picked(b, a.flatten(2).argsort(-1)),
    "argmax": lambda a, b: picked(b, a.flatten(2).argmax(-1, keepdim=True).expand(-1, -1, 4)),
    "max": lambda a, b: picked(b, a.flatten(2).max(-1, keepdim=True)[1].expand(-1, -1, 4)),
    "median": lambda a, b: picked(b, a.flatten(2).median(-1, keepdim=True)[1].expand(-1, -1, 4)),
    "cummax": lambda a, b: picked(b, a.flatten(2).cummax(-1)[1]),
    "take_along_dim": lambda a, b: torch.take_along_dim(b.flatten(2), a.flatten(2).argsort(-1), 2).view_as(b),
    "pooling": lambda a, b: picked(b, F.max_pool2d(a, 2, return_indices=True)[1].flatten(2)),
    "adaptive pooling": lambda a, b: picked(b, F.adaptive_max_pool2d(a, 2, return_indices=True)[1].flatten(2)),
    "unpooling": lambda a, b: F.max_unpool2d(F.max_pool2d(b, 2), F.max_pool2d(a, 2, return_indices=True)[1], 2),
    "any": lambda a, b: b * (a.flatten(2) > 0).any(-1)[..., None, None],
    "scatter": lambda a, b: canvas(b).scatter(2, a.flatten(2).argsort(-1), b.flatten(2)).view_as(b),
    "scatter a number": lambda a, b: canvas(b).scatter_(2, a.flatten(2).topk(4, -1)[1], 1.0).view_as(b) * b,
    "scatter_add": lambda a, b: canvas(b).scatter_add(2, a.flatten(2).argsort(-1), b.flatten(2)).view_as(b),
    "scatter_reduce": lambda a, b: b.flatten(2).scatter_reduce(2, a.flatten(2).argsort(-1), a.flatten(2), "amax").view_as(b),
    "index_add": lambda a, b: b.index_add(2, PLACES, a),
    "index_add to zeros": lambda a, b: torch.zeros_like(b).index_add_(3, PLACES, a, alpha=2) + b,
}  # fmt: skip
APART: dict[str, Function] = {
    "tokens": lambda a, b: b.flatten(2).mT.gather(1, best(a)[..., None].expand(-1, -1, b.shape[1])).mT.unsqueeze(-1),
    "tokens repeated": lambda a, b: b.flatten(2).mT.gather(1, best(a)[..., None].repeat(1, 1, b.shape[1])).mT.unsqueeze(-1),
    "index_select": lambda a, b: b.flatten(2).index_select(2, best(a)[0]).unsqueeze(-1),
    "an index": lambda a, b: b.flatten(2)[:, :, best(a)[0]].unsqueeze(-1),
}  # fmt: skip
PROTECTED: dict[str, Function] = {
    "along channels": lambda a, b: b.scatter(1, torch.zeros(2, 8, 4, 4, dtype=torch.long), a),
    "a constant index": lambda a, b: b.flatten(2).scatter(2, torch.zeros(2, 8, 16, dtype=torch.long), a.flatten(2)).view_as(b),
    "a number for each": lambda a, b: F.one_hot(a.argmax(1), 8).movedim(-1, 1) * b,
}  # fmt: skip


def best(tensor: Tensor) -> Tensor:
    return tensor.mean(1).flatten(1).topk(4, 1)[1]


def model_of(function: Function) -> nn.Module:
    return Between(
        lambda m, x: m.out(function(m.a(x), m.b(x))), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(3, 8, 1), out=nn.Conv2d(8, 2, 1)
    )


def free_of(function: Function) -> tuple[list[tuple[str, ...]], float]:
    """The layers of each coupling that may be pruned, and how far a cut of these is from zeros."""
    model = model_of(function)
    couplings = map_couplings(model, X)
    assert all(bool(torch.isfinite(scores).all()) for scores in dfpc.bgsc(model, X).values())
    units = random_units(couplings, 0.4)
    free = [tuple(coupling.feed_in) for coupling in couplings.couplings if coupling.protected is None]
    return free, error_of_cut(model, couplings, X, units) if units else 0.0


@pytest.mark.parametrize("name", TIED)
def test_positions_of_a_channel_tie_it_to_where_they_are_used(name: str) -> None:
    free, error = free_of(TIED[name])
    assert free == [("a", "b")] and error < 1e-12


@pytest.mark.parametrize("name", APART)
def test_positions_that_all_channels_share_tie_nothing(name: str) -> None:
    free, error = free_of(APART[name])
    assert free == [("a",), ("b",)] and error < 1e-12


@pytest.mark.parametrize("name", PROTECTED)
def test_what_counts_channels_protects_them(name: str) -> None:
    free, _ = free_of(PROTECTED[name])
    assert ("a",) not in free and ("a", "b") not in free
