"""Changes of a model that make scores stale are seen, also those that leave no trace in version counters."""

import pytest
import torch
from torch import nn

from dfpc_plugin.state import ModelState


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))


def optimiser_step(model):
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


CHANGES = {
    "optimiser step": optimiser_step,
    "in place": lambda model: model[0].weight.detach().add_(1),
    "through .data": lambda model: model[0].weight.data.mul_(1.001),
    "one entry through .data": lambda model: model[0].weight.data[3, 2, 1, 0].add_(1e-3),
    "rows exchanged through .data": lambda model: model[0].weight.data.copy_(model[0].weight.data.flip(0)),
    "columns exchanged through .data": lambda model: model[0].weight.data.copy_(model[0].weight.data.flip(1)),
    "statistics": lambda model: model(torch.randn(2, 3, 6, 6)),
    "new parameter": lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach().clone())),
    "loaded": lambda model: model.load_state_dict(net().state_dict()),
    "another layer": lambda model: model[2].weight.detach().add_(1),
    "replaced module": lambda model: model.__setitem__(2, nn.Identity()),
    "new storage": lambda model: setattr(model[2].weight, "data", torch.zeros(2, 4, 3, 3)),
    "another stride": lambda model: setattr(model[0], "stride", (2, 2)),
    "another eps": lambda model: setattr(model[1], "eps", 0.1),
    "pruned": lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach()[:3])),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change):
    model = net()
    state = ModelState(model)
    assert state.holds_for([model[0], model[1]])
    with torch.no_grad() if change in ("in place", "another layer") else torch.enable_grad():
        CHANGES[change](model)
    assert not state.holds_for([model[0], model[1]])


def test_reading_is_no_change():
    model = net().eval()
    state = ModelState(model)
    model(torch.randn(1, 3, 6, 6)).sum().backward()
    model.train()
    assert state.holds_for(model)
