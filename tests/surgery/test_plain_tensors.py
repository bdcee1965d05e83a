"""Constants that modules keep as plain tensors lose channels like buffers do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dfpc_plugin import find_couplings, prune, replay
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.errors import CutError
from dfpc_plugin.surgery import cut
from zero_cut import error_of_cut

IMAGE = torch.rand(1, 3, 4, 4)


class Positioned(nn.Module):
    """Adds a table of positions that is neither a parameter nor a buffer."""

    def __init__(self, table: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 1)
        self.table = torch.rand(16, 6) if table is None else table
        self.alias = self.table
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT + self.table.to(x.device, dtype=x.dtype)
        return self.out(x + self.alias)


def test_a_plain_tensor_is_cut_with_the_stream() -> None:
    model = Positioned().double().eval()
    model.table = model.alias = model.table.double()
    couplings = map_couplings(model, IMAGE.double())
    number = next(n for n, coupling in enumerate(couplings.couplings) if coupling.name == "stem")
    assert couplings.couplings[number].protected is None
    table = model.table
    assert error_of_cut(model, couplings, IMAGE.double(), {number: torch.tensor([1, 4])}) < 1e-12
    assert model.table.shape == (16, 4)
    assert model.alias is model.table
    assert table.shape == (16, 6), "what the user may hold elsewhere stays as it is"


def test_a_pruned_model_with_a_plain_tensor_is_copied_and_replayed() -> None:
    model = Positioned().eval()
    result = prune(model, IMAGE, "ratio=0.5")
    assert result.model.table.shape == (16, 3)
    assert model.table.shape == (16, 6)
    with torch.no_grad():
        expected = result.model(IMAGE)
        assert torch.equal(copy.deepcopy(result.model)(IMAGE), expected)
        assert torch.equal(replay(Positioned().eval(), IMAGE, result.removed)(IMAGE), expected)


def test_a_cut_that_fails_leaves_plain_tensors_as_they_were() -> None:
    model = Positioned().eval()
    couplings = map_couplings(model, IMAGE)
    number = next(n for n, coupling in enumerate(couplings.couplings) if coupling.name == "stem")
    table = model.table
    model.out = nn.Linear(5, 2)  # not what the couplings were found on
    with pytest.raises(CutError, match="has 5 entries in dimension 1 where 6 were found"):
        cut(model, couplings, couplings.couplings[number].blocks[:, :2].reshape(-1))
    assert model.table is table
    assert model.alias is table


def test_tensors_in_lists_protect_what_they_meet() -> None:
    class Listed(Positioned):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.stem(x).flatten(2).mT + self.tables[0])

    model = Listed().eval()
    model.tables = [torch.rand(16, 6)]
    del model.table, model.alias
    reasons = [coupling.protected or "" for coupling in find_couplings(model, IMAGE) if coupling.name == "stem"]
    assert any("is added to a tensor of fixed size by torch.Tensor.add" in reason for reason in reasons)
