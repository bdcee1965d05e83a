"""A vector that a layer makes, viewed as a map of features: channels of the map can go, its rows and columns cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dfpc_plugin as dfpc
from dfpc_plugin.couplings import map_couplings
from zero_cut import error_of_cut, random_units, randomise

CODES = torch.randn(2, 6, dtype=torch.float64)


class Generator(nn.Module):
    """From a code to an image."""

    def __init__(self, grow: Callable[[Tensor], Tensor], groups: int) -> None:
        super().__init__()
        self.channels, self.height, self.width, self.grow = 8, 3, 4, grow
        self.fc, self.norm = nn.Linear(6, 8 * 3 * 4), nn.BatchNorm1d(8 * 3 * 4)
        self.conv, self.out = nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.Conv2d(8, 2, 1)

    def forward(self, code: Tensor) -> Tensor:
        x = self.norm(self.fc(code)).relu().view(-1, self.channels, self.height, self.width)
        return self.out(self.conv(self.grow(x)).relu())


GROW = {
    "as it is": lambda x: x,
    "interpolated": lambda x: F.interpolate(x, scale_factor=2),
    "pooled": lambda x: F.avg_pool2d(x, 2, 1),
    "averaged": lambda x: x * x.mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", GROW)
@pytest.mark.parametrize("groups", [1, 8])
def test_channels_of_the_map_are_the_units(name: str, groups: int) -> None:
    model = randomise(Generator(GROW[name], groups).double().eval())
    couplings = map_couplings(model, CODES)
    (coupling,) = [c for c in couplings.couplings if "fc" in c.feed_in]
    assert coupling.protected is None and coupling.channels == 8
    assert error_of_cut(model, couplings, CODES, random_units(couplings, 0.4)) < 1e-12
    assert (model.height, model.width) == (3, 4) and model.channels < 8


def test_transposed_convolutions_read_maps_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.up, self.out = nn.Linear(6, 5 * 16), nn.ConvTranspose2d(5, 4, 4, 2, 1), nn.Conv2d(4, 1, 1)

        def forward(self, code: Tensor) -> Tensor:
            return self.out(self.up(self.fc(code).view(-1, self.up.in_channels, 4, 4)).relu())

    result = dfpc.prune(Net().double().eval(), CODES, "ratio=0.4")
    assert result.model.up.in_channels < 5 and result.model(CODES).shape == (2, 1, 8, 8)
