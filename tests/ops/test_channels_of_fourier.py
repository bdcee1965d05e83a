"""Fourier transforms along positions, and quantisation that observes what it sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brute_force import Between
from dfpc_plugin import bgsc, find_couplings
from dfpc_plugin.couplings import map_couplings
from zero_cut import error_of_cut

IMAGE = torch.rand(1, 3, 8, 8, dtype=torch.float64)

FILTERS = {
    "two axes and back": lambda y: torch.fft.irfft2(torch.fft.rfft2(y, norm="ortho"), s=(8, 8), norm="ortho"),
    "all positions by name": lambda y: torch.fft.ifftn(torch.fft.fftn(y, dim=(2, 3)), dim=(2, 3)).real,
    "as two real parts": lambda y: torch.view_as_real(torch.fft.fft(y)).sum(-1),
    "filtered": lambda y: torch.fft.irfft2(torch.fft.rfft2(y) * torch.full((8, 5), 0.5 + 0.5j, dtype=torch.complex128)),
}


def _net(function: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return Between(lambda m, x: m.out(function(m.a(x)).mean((2, 3))), a=nn.Conv2d(3, 6, 1), out=nn.Linear(6, 2))


@pytest.mark.parametrize("name", FILTERS)
def test_channels_pass_transforms_of_positions(name: str) -> None:
    model = _net(FILTERS[name])
    couplings = map_couplings(model, IMAGE)
    number = next(n for n, coupling in enumerate(couplings.couplings) if coupling.name == "a" and coupling.feed_in)
    assert couplings.couplings[number].protected is None
    for ranking in ("published", "expected"):
        assert bgsc(model, IMAGE, ranking=ranking)["a"].min() > 0
    assert error_of_cut(model, couplings, IMAGE, {number: torch.tensor([1, 4])}) < 1e-12


def test_channels_that_are_transformed_stay() -> None:
    reasons = {
        c.name: c.protected for c in find_couplings(_net(lambda y: torch.fft.fft(y, dim=1).real), IMAGE) if c.feed_in
    }
    assert "is mixed along its own axis" in (reasons["a"] or "")


def test_a_transform_is_as_large_as_its_matrix() -> None:
    """A bound of ones along n positions becomes n; back again, divided by as many, one."""
    scores = [
        bgsc(_net(f), IMAGE)["a"].sum()
        for f in (lambda y: y.sum((2, 3), keepdim=True), lambda y: torch.fft.fft2(y).real)
    ]
    assert torch.allclose(scores[0], scores[1])


@pytest.mark.parametrize("per_channel", [False, True])
def test_fake_quantisation_with_an_observer(per_channel: bool) -> None:
    """With one scale channels pass; those with a scale each stay."""

    def quantise(y: Tensor) -> Tensor:
        count = 6 if per_channel else 1
        flag, low, high = torch.zeros(1, dtype=torch.long), torch.zeros(count), torch.ones(count)
        zero = torch.zeros(count, dtype=torch.int32)
        return torch.fused_moving_avg_obs_fake_quant(
            y, flag, flag, low, high, torch.ones(count), zero, 0.01, 0, 255, 1, per_channel, False
        )

    reasons = {c.name: c.protected for c in find_couplings(_net(quantise), IMAGE) if c.feed_in}
    assert ("has a scale per channel" in (reasons["a"] or "")) == per_channel
    assert bgsc(_net(quantise), IMAGE)["a"].min() > 0
