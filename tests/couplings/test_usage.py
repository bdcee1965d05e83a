"""Parameters that a forward never uses are named; those that it uses in any way are not."""

import pytest
import torch
from torch import nn

from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.models import build_model, example_inputs


class Partly(nn.Module):
    """Some layers run, some are only asked for their shape."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.auxiliary = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.cells, self.mean, self.spare = (nn.LSTM(8, 8), nn.Parameter(torch.rand(5)), nn.Parameter(torch.rand(5)))
        self.tied = nn.Linear(4, 8)
        self.tied.weight = self.first.weight
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x):
        x = self.first(x).relu() * self.mean.mean()
        x = x.to(self.auxiliary[0].weight.dtype).view(-1, 1, self.spare.shape[0] + 3)
        x = x + self.cells(x)[0]
        x = x + self.attention(x, x, x)[0]
        return self.last(x.squeeze(1))


def test_what_never_runs_is_named():
    found = map_couplings(Partly(), torch.rand(3, 4))
    assert found.unused == {"spare": 5, "auxiliary": 8 * 8 + 8 + 16, "tied.bias": 8}
    reasons = {c.name: c.protected for c in found.couplings if not c.feed_in}
    assert reasons["auxiliary.0"] == reasons["auxiliary.1"] == "is never used by the forward"
    assert reasons["mean"] == "is not produced by a layer"


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_models_use_all_that_they_have(name):
    model = build_model(name, meta=True).eval()
    assert map_couplings(model, example_inputs(model, name, device="meta")).unused == {}
