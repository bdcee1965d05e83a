"""Norms over channels after a cut, against networks in which what they have to make good is known exactly."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dfpc_plugin as dfpc

GONE = (8, 9, 10, 11, 12, 13, 14, 15)
X = torch.zeros(1, 3, 16, 16)


class Rms(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


class Net(nn.Module):
    """Sixteen channels of which the first eight come in pairs of opposite sign, and the others are zero."""

    def __init__(self, norm):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 16, 3, bias=False), norm, nn.Linear(16, 5)
        with torch.no_grad():
            self.stem.weight[4:8] = -self.stem.weight[:4]
            self.stem.weight[8:] = 0
            for parameter in self.norm.parameters():
                parameter.uniform_(0.5, 1.5)

    def forward(self, x):
        x = self.stem(x)
        if isinstance(self.norm, nn.GroupNorm):
            return self.head(self.norm(x).movedim(1, -1))
        return self.head(self.norm(x.movedim(1, -1)))


NORMS = {
    "layer norm": lambda: nn.LayerNorm(16, eps=1e-9),
    "RMS norm": lambda: Rms(16),
    "group norm": lambda: nn.GroupNorm(1, 16, eps=1e-9),
}


@pytest.mark.parametrize("method", ["mean", "merge"])
@pytest.mark.parametrize("kind", NORMS)
def test_channels_that_are_always_zero_can_go_without_a_trace(kind, method):
    torch.manual_seed(0)
    model = Net(NORMS[kind]()).eval()
    cut = dfpc.replay(copy.deepcopy(model), X, {"stem": GONE})
    mended = dfpc.repair(cut, model, X, method, removed={"stem": GONE})
    assert not any("taken back" in note for note in mended.notes)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        wanted, bare, found = model(images), cut(images), mended.model(images)
    assert (bare - wanted).abs().max() > 0.1, "half of the channels make a difference to the norm"
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_groups_have_slopes_of_their_own():
    torch.manual_seed(0)
    model = Net(nn.GroupNorm(2, 16, eps=1e-9)).eval()
    with torch.no_grad():  # pairs and zeros in either group, and more zeros that stay in the second
        rows = torch.randn(4, 3, 3, 3)
        model.stem.weight[:] = 0
        model.stem.weight[[0, 1, 8, 9]] = torch.cat([rows[:1], -rows[:1], rows[1:2], -rows[1:2]])
        model.stem.weight[[2, 3]] = torch.cat([rows[2:3], -rows[2:3]])
    gone = (4, 5, 6, 7, 12, 13, 14, 15)
    cut = dfpc.replay(copy.deepcopy(model), X, {"stem": gone})
    mended = dfpc.repair(cut, model, X, "merge", removed={"stem": gone}).model
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(mended(images), model(images), rtol=1e-3, atol=1e-3)


def test_norms_that_lose_nothing_stay_as_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    x = torch.randn(4, 8)
    cut = dfpc.replay(copy.deepcopy(model), x, {"0": (1, 3)})
    mended = dfpc.repair(cut, model, x, "merge", removed={"0": (1, 3)}).model
    assert torch.equal(mended[3].weight, model[3].weight)
    assert torch.equal(mended[3].bias, model[3].bias)
