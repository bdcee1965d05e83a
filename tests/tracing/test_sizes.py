"""Traced numbers: where sizes come from survives casts and caches, and nothing of a run is left behind."""

from __future__ import annotations

import functools
import math
import operator
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dfpc_plugin as dfpc
from dfpc_plugin.couplings import find_couplings, map_couplings
from dfpc_plugin.tracing.sizes import Attribute, Casts, Operation, TracedInt
from zero_cut import error_of_cut, masked_statistics, random_units, randomise

IMAGE = torch.rand(1, 3, 9, 9)
WIDTH = Attribute("block", "width", 64)


def test_a_cast_number_is_recognised_in_its_module_and_around_it() -> None:
    casts = Casts()
    width = TracedInt(64, WIDTH)
    with casts.watched(lambda: "stage.block", lambda: False):
        assert type(int(width)) is int and type(float(width)) is float and math.sqrt(width) == 8.0
    assert casts.origin_of(64, lambda: "stage.block") == WIDTH
    assert casts.origin_of(8.0, lambda: "stage") == Operation(operator.pow, (WIDTH, 0.5))
    assert casts.origin_of(0.125, lambda: "stage.block.attn") is not None
    assert casts.origin_of(8.0, lambda: "stage2") is None, "another module's number"
    assert casts.origin_of(7.0, lambda: "stage.block") is None


def test_casts_are_seen_only_while_they_are_watched() -> None:
    casts = Casts()
    int(TracedInt(64, WIDTH))
    with casts.watched(lambda: "", lambda: True):
        int(TracedInt(64, WIDTH))
    assert casts.origin_of(64, lambda: "") is None


def test_pickles_and_copies_are_plain() -> None:
    assert type(pickle.loads(pickle.dumps(TracedInt(3, WIDTH)))) is int


@pytest.mark.parametrize("cast", [lambda c: c, int, lambda c: int(float(c)), lambda c: int(c * 1.0)])
def test_a_size_that_was_cast_is_no_fixed_size(cast: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(self.a(x).relu()).permute(0, 2, 3, 1)
            return self.head(F.layer_norm(x, [cast(x.shape[-1])]).mean((1, 2)))

    model = randomise(Net().double().eval())
    image = IMAGE.double()
    couplings = map_couplings(model, image)
    assert next(c for c in couplings.couplings if c.name == "b").protected is None
    with masked_statistics():
        assert error_of_cut(model, couplings, image, random_units(couplings, 0.4)) < 1e-12


@functools.lru_cache
def split(width: int, heads: int) -> tuple[int, int]:
    """Heads, and the width of each."""
    return heads, width // heads


class Cached(nn.Module):
    """Asks a cached function, and a cached method, for sizes."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.heads, self.a = 4, nn.Linear(8, 16)
        self.q, self.k, self.head = nn.Linear(16, width), nn.Linear(16, width), nn.Linear(width, 3)

    @staticmethod
    def key(width: int) -> int:
        return width

    @functools.cache  # noqa: B019
    def joined(self, heads: int, width: int) -> int:
        return heads * width

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        heads, width = split(self.q.out_features, self.heads)
        q, k = (part(x).reshape(*x.shape[:2], heads, width) for part in (self.q, self.k))
        return self.head((q * k).reshape(*x.shape[:2], self.joined(heads, width)).mean(1))


def shapes(model: nn.Module) -> list[tuple[Any, ...]]:
    """What is found, for comparison."""
    return [(c.name, c.channels, c.protected) for c in find_couplings(model, torch.rand(2, 5, 8))]


def test_cached_functions_neither_forget_nor_remember() -> None:
    split.cache_clear()
    model = Cached()
    fresh = shapes(model)
    assert ("q", 8, None) in fresh
    info = split.cache_info()
    assert info.currsize == 0, "traced numbers are not remembered"
    model(torch.rand(2, 5, 8))
    assert shapes(model) == fresh, "though the model was called before"
    assert shapes(Cached(64)) != fresh and shapes(model) == fresh, "models do not influence each other"
    assert type(split).__name__ == "_lru_cache_wrapper", "put back"
    assert type(vars(Cached)["joined"]).__name__ == "_lru_cache_wrapper"
    assert split(32, 4) == (4, 8) and split.cache_info().hits >= 1


class Remembering(nn.Module):
    """Keeps a part of a buffer in a cache of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.rand(8, 16, 16))
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    @functools.cache  # noqa: B019
    def position(self, height: int, width: int) -> Tensor:
        return self.table[:, :height, :width]

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) + self.position(x.shape[2], x.shape[3]))


@pytest.mark.parametrize("look", [dfpc.bgsc, dfpc.find_couplings, dfpc.missing_operators])
def test_cached_methods_keep_nothing_of_a_run(look: Any) -> None:
    model = Remembering().eval()
    look(model, IMAGE)
    with torch.no_grad():
        assert type(model(IMAGE)) is Tensor
