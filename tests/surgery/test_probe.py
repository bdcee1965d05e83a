"""Trial cuts: what breaks a forward in ways that labels cannot see is protected, and nothing else changes."""

import copy
import math

import pytest
import torch
from torch import nn

from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.errors import ForwardError
from dfpc_plugin.host import DFPCPruner
from dfpc_plugin.pruning import prune, replay
from dfpc_plugin.surgery import cut, protect_what_breaks


class Checked(nn.Module):
    """A forward that insists on a width which is written nowhere but in its code."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.first(x).relu()
        if x.shape[-1] % 16:
            raise ValueError("expected sixteen channels")
        return self.third(self.second(x).relu())


class Recurrent(nn.Module):
    """A layer that keeps its weights in a list of its own."""

    def __init__(self):
        super().__init__()
        self.cells, self.out = nn.LSTM(4, 6, batch_first=True, bidirectional=True), nn.Linear(12, 2)

    def forward(self, x):
        return self.out(self.cells(x)[0])


class Picky(nn.Module):
    """A forward that needs the values of indices which it keeps: it does not run on the meta device."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x):
        return self.second(self.first(x).relu())[: self.count.item()]


def everything(model):
    """Tensors, attributes and modes of a model."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return state, repr(model), [(m.training, sorted(vars(m))) for m in model.modules()]


def same(before, after):
    """Compare what `everything` returns."""
    assert before[1:] == after[1:]
    assert all(torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())


def test_a_check_in_the_code_protects_its_coupling_and_no_other():
    model, x = Checked(), torch.randn(2, 4)
    couplings = map_couplings(model, x)
    names = {c.name: c.protected for c in couplings.couplings if "first" in c.feed_in or "second" in c.feed_in}
    assert names == {"first": None, "second": None}
    before = everything(model)
    found = protect_what_breaks(model, x, couplings)
    same(before, everything(model))
    assert [(c.name, c.protected) for c in found] == [
        ("first", "makes the forward fail when it is pruned: ValueError: expected sixteen channels")
    ]
    assert [c.name for c in couplings.couplings if c.protected is None] == ["second"]


def test_the_pruner_leaves_what_breaks_alone():
    model, x = Checked(), torch.randn(2, 4)
    pruner = DFPCPruner(model, x, lambda group: torch.arange(float(len(group[0].idxs))), pruning_ratio=0.5)
    pruner.step()
    assert (model.first.out_features, model.second.out_features) == (16, 6)
    assert model(x).shape == (2, 3)


@pytest.mark.parametrize("model, x", [(Recurrent(), torch.randn(2, 5, 4)), (Picky(), torch.randn(4, 4))])
def test_what_runs_is_not_protected(model, x):
    couplings = map_couplings(model, x)
    free = [c.name for c in couplings.couplings if c.protected is None]
    before = everything(model)
    assert free
    assert protect_what_breaks(model, x, couplings) == []
    same(before, everything(model))
    assert model(x).isfinite().all()


def test_a_model_that_never_runs_is_an_error_with_its_reason():
    class Broken(Checked):
        def forward(self, x):
            raise KeyError("nothing to see")

    couplings = map_couplings(Checked(), torch.randn(2, 4))
    with pytest.raises(ForwardError, match="KeyError: 'nothing to see'"):
        protect_what_breaks(Broken(), torch.randn(2, 4), couplings)


def test_couplings_that_break_only_together_lose_the_cheapest():
    class Together(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.first(x)
            width = x.shape[-1]
            x = self.second(x)
            if width < 8 and x.shape[-1] < 6:
                raise ValueError("too narrow")
            return self.third(x)

    model, x = Together(), torch.randn(2, 4)
    couplings = map_couplings(model, x)
    found = protect_what_breaks(copy.deepcopy(model), x, couplings)
    assert len(found) == 1
    assert found[0].macs == min(c.macs for c in couplings.couplings if c.name in ("first", "second") and c.feed_in)


def test_norms_without_parameters_say_their_new_width():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.GroupNorm(2, 8, affine=False), nn.Conv2d(8, 4, 1)
    )
    image = torch.randn(1, 3, 8, 8)
    couplings = map_couplings(model, image)
    (coupling,) = [c for c in couplings.couplings if c.protected is None]
    cut(model, couplings, coupling.blocks[:, 1])
    assert (model[1].num_features, model[2].num_channels) == (6, 6)


class Insists(nn.Module):
    """Checks the width of what it gets against a number that it keeps, or against one in its code."""

    def __init__(self, width, kept=True, compute=None):
        super().__init__()
        self.compute, self.limit = compute, width - 1
        if kept:
            self.num_channels = width
        self.fixed = None if kept else lambda: width

    def forward(self, x):
        width = self.num_channels if self.fixed is None else self.fixed()
        if x.shape[1] != width:
            raise ValueError(f"expected {width} channels")
        return x if self.compute is None else self.compute(x, self.num_channels)


def flat(*inner):
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 20, 3), *inner]
    return nn.Sequential(*layers, nn.Conv2d(20, 12, 1), nn.Conv2d(12, 5, 1))


def test_one_layer_of_a_sequential_that_fails_protects_no_other():
    model, x = flat(Insists(20, kept=False)), torch.rand(1, 3, 8, 8)
    couplings = map_couplings(model, x)
    (found,) = protect_what_breaks(model, x, couplings)
    assert (found.name, found.protected) == (
        "4", "makes the forward fail when it is pruned: ValueError: expected 20 channels"
    )  # fmt: skip
    assert [c.name for c in couplings.couplings if c.protected is None] == ["0", "2", "6"]


def test_one_block_of_many_that_fails_protects_no_other():
    def block(kept):
        return nn.Sequential(nn.Conv2d(8, 16, 1), Insists(16, kept), nn.Conv2d(16, 8, 1))

    model, x = nn.Sequential(*(block(number != 3) for number in range(6))), torch.rand(1, 8, 4, 4)
    couplings = map_couplings(model, x)
    assert [c.name for c in protect_what_breaks(model, x, couplings)] == ["3.0"]


def test_a_kept_width_that_is_checked_follows_the_cut():
    model, x = flat(Insists(20), Insists(20)), torch.rand(1, 3, 8, 8)
    before = everything(model)
    couplings = map_couplings(model, x)
    assert protect_what_breaks(model, x, couplings) == []
    same(before, everything(model))
    (coupling,) = [c for c in couplings.couplings if c.feed_in == ("4",)]
    cut(model, couplings, coupling.blocks[:, :7].reshape(-1))
    assert [model[number].num_channels for number in (5, 6)] == [13, 13] and model[5].limit == 19
    assert model(x).shape == (1, 5, 2, 2)


def test_a_kept_width_that_is_checked_follows_in_prune_and_replay():
    model, x = flat(Insists(20)), torch.rand(1, 3, 8, 8)
    result = prune(model, x, "ratio=0.5")
    assert {c.name for c in result.protected} == {"7"}
    assert result.model[5].num_channels == result.model[4].out_channels < 20 == model[5].num_channels
    again = replay(copy.deepcopy(model), x, result.removed)
    assert again[5].num_channels == result.model[5].num_channels and torch.equal(again(x), result.model(x))
    pruned_in_place = prune(model, x, "ratio=0.5", inplace=True).model
    assert pruned_in_place is model and torch.equal(model(x), result.model(x))


@pytest.mark.parametrize("compute", [
    lambda x, width: x / math.sqrt(width), lambda x, width: x * width, lambda x, width: x + torch.ones(()) / (width * 2),
])  # fmt: skip
def test_a_width_that_the_forward_computes_with_is_protected(compute):
    """Another width would make another function of the pruned model."""
    model, x = flat(Insists(20, compute=compute)), torch.rand(1, 3, 8, 8)
    couplings = map_couplings(model, x)
    assert [c.name for c in protect_what_breaks(model, x, couplings)] == ["4"]
