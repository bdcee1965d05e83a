"""Slices, canvases and first states: parts of a coupling that shrink together, alone, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dfpc_plugin as dfpc
from brute_force import Between
from dfpc_plugin.couplings import map_couplings
from zero_cut import error_of_cut, random_units

FRAMES = torch.rand(4, 3, 6, 6, dtype=torch.float64)


def free_widths(model: nn.Module, inputs: Any, name: str) -> list[tuple[int, int]]:
    """(Units, channels of a unit) of the couplings that `name` writes and that can be pruned, after a cut that is exact."""
    couplings = map_couplings(model, inputs)
    units = random_units(couplings, 0.3, least=1)
    assert not units or error_of_cut(model, couplings, inputs, units) < 1e-12
    free = [own.blocks for own in couplings.couplings if own.protected is None and name in own.feed_in]
    return [(blocks.shape[1], blocks.shape[0]) for blocks in free]


def halves(h: Tensor, bound: Any) -> Tensor:
    """Two slices of the channels, of which one is doubled."""
    return torch.cat([2 * h[:, :bound], h[:, bound:]], 1)


def written(h: Tensor, bound: Any) -> Tensor:
    """The same, written to zeros."""
    canvas = torch.zeros_like(h)
    canvas[:, :bound] = 2 * h[:, :bound]
    canvas[:, bound:] = h[:, bound:]
    return canvas


def shifted(h: Tensor, bound: Any) -> Tensor:
    """Frames change places in two parts of the channels, and zeros stay at the ends."""
    canvas = torch.zeros_like(h)
    canvas[:-1, :bound] = h[1:, :bound]
    canvas[1:, bound : 2 * bound] = h[:-1, bound : 2 * bound]
    canvas[:, 2 * bound :] = h[:, 2 * bound :]
    return canvas


PARTS: dict[str, tuple[Callable[[Tensor], Tensor], list[tuple[int, int]]]] = {
    "an eighth": (lambda h: halves(h, h.shape[1] // 8), [(2, 8)]),
    "a half": (lambda h: halves(h, h.shape[1] // 2), [(8, 2)]),
    "three quarters": (lambda h: halves(h, int(h.shape[1] * 0.75)), [(4, 4)]),
    "written eighth": (lambda h: written(h, h.shape[1] // 8), [(2, 8)]),
    "shifted": (lambda h: shifted(h, h.shape[1] // 8), [(2, 8)]),
    "first four": (lambda h: halves(h, 4), [(12, 1)]),
    "last four": (lambda h: halves(h, -4), [(12, 1)]),
    "all but four": (lambda h: halves(h, h.shape[1] - 4), [(12, 1)]),
    "split": (lambda h: torch.cat([p * f for f, p in enumerate(h.split([4, h.shape[1] - 4], 1), 1)], 1), [(12, 1)]),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_shrink_as_the_forward_lets_them(name: str) -> None:
    function, expected = PARTS[name]
    model = Between(lambda m, x: m.b(function(m.a(x))), a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 4, 1))
    assert free_widths(model, FRAMES, "a") == expected


def test_a_share_may_be_an_attribute() -> None:
    """As `fold_div` of the temporal shift module is."""
    model = Between(
        lambda m, x: m.b(shifted(m.a(x), m.a(x).shape[1] // m.fold_div)),
        a=nn.Conv2d(3, 16, 1),
        b=nn.Conv2d(16, 4, 1),
        fold_div=8,
    )
    assert free_widths(model, FRAMES, "a") == [(2, 8)] and model.fold_div == 8


def test_what_a_fixed_slice_reads_is_protected_with_its_size() -> None:
    model = Between(lambda m, x: m.b(halves(m.a(x), 4)), a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 4, 1))
    reasons = {own.protected for own in dfpc.find_couplings(model, FRAMES) if own.name == "a" and own.feed_in}
    assert reasons == {None, "torch.Tensor.__getitem__ needs size 4, but 3 would remain"}
    assert dfpc.prune(model, FRAMES, "ratio=0.3").model.a.out_channels < 16


FIRST_STATES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "zeros": lambda m, x: torch.zeros(len(x), m.hidden, 6, 6, dtype=x.dtype),
    "sizes in a tuple": lambda m, x: torch.zeros((len(x), m.hidden, *x.shape[2:]), dtype=x.dtype),
    "new_zeros": lambda m, x: x.new_zeros(len(x), m.hidden, 6, 6),
    "converted": lambda m, x: torch.zeros(len(x), m.hidden, 6, 6).to(x),
    "expanded": lambda m, x: torch.zeros(1, m.hidden, 1, 1, dtype=x.dtype).expand(len(x), -1, 6, 6),
    "noise": lambda m, x: torch.rand(len(x), m.hidden, 6, 6, dtype=x.dtype) * 0,
    "the layer's width": lambda m, x: torch.zeros(len(x), m.gates.out_channels // 4, 6, 6, dtype=x.dtype),
}


@pytest.mark.parametrize("name", FIRST_STATES)
def test_a_recurrence_by_convolutions_loses_channels_of_its_state(name: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        hidden = memory = FIRST_STATES[name](m, x)
        for _ in range(3):
            take, keep, show, new = m.gates(torch.cat([x, hidden], 1)).chunk(4, 1)
            memory = keep.sigmoid() * memory + take.sigmoid() * new.tanh()
            hidden = show.sigmoid() * memory.tanh()
        return m.last(hidden)

    model = Between(forward, gates=nn.Conv2d(3 + 8, 32, 3, padding=1), last=nn.Conv2d(8, 2, 1), hidden=8)
    assert free_widths(model, FRAMES, "gates") == [(8, 1)]
    assert model.gates.out_channels == 4 * model.last.in_channels < 32


def test_a_spatial_transformer_is_pruned() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        theta = m.where(m.look(x).relu().mean((2, 3))).view(-1, 2, 3)
        return m.last(m.first(F.grid_sample(x, F.affine_grid(theta, x.size(), False), align_corners=False)))

    model = Between(
        forward, look=nn.Conv2d(3, 8, 3), where=nn.Linear(8, 6), first=nn.Conv2d(3, 8, 3), last=nn.Conv2d(8, 2, 1)
    )
    reasons = {own.name: own.protected for own in dfpc.find_couplings(model, FRAMES) if own.feed_in}
    assert reasons["where"] == "gives positions to torch.nn.functional.affine_grid"
    assert all(bool(torch.isfinite(scores).all()) for scores in dfpc.bgsc(model, FRAMES).values())
    assert free_widths(model, FRAMES, "look") == [(8, 1)] and model.first.out_channels == 6
