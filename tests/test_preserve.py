"""Scoring leaves a model, and the random generators, bit for bit as they were."""

import copy

import pytest
import timm
import torch
from torch import nn

from dfpc_plugin import bgsc, missing_operators
from dfpc_plugin.preserve import evaluating


class Restless(nn.Module):
    """Does to itself what forwards of real models do: counters, caches, new attributes, random numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.cache, self.history, self.seen = {}, [], set()
        self.fail = False

    def forward(self, x):
        self.calls += 1
        self.cache["x"] = x.shape
        self.history.append(x.shape)
        self.seen.add(len(self.history))
        self.fresh = torch.rand(3)
        self.noise = 2 if not hasattr(self, "noise") else 3
        self.last.weight.requires_grad_(False)
        x = nn.functional.dropout(self.norm(self.first(x)), 0.5, self.training)
        if self.fail:
            raise OSError("half-way")
        return self.last(x)


def photograph(model):
    """Everything of a model that a user could notice."""
    return {
        "state": {name: (id(t), t._version, t.clone()) for name, t in model.state_dict(keep_vars=True).items()},
        "flags": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad for p in model.parameters()],
        "attributes": [
            {k: copy.copy(v) for k, v in module.__dict__.items() if not k.startswith("_")} for module in model.modules()
        ],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "rng": torch.get_rng_state(),
    }


def assert_same(before, after):
    assert before["flags"] == after["flags"]
    assert before["requires_grad"] == after["requires_grad"] and before["hooks"] == after["hooks"]
    assert all(mine is theirs for mine, theirs in zip(before["grad"], after["grad"], strict=True))
    assert before["state"].keys() == after["state"].keys()
    for name, (identity, _, value) in before["state"].items():
        assert after["state"][name][0] == identity, name
        assert torch.equal(after["state"][name][2], value), name
    assert torch.equal(before["rng"], after["rng"])
    assert [a.keys() for a in before["attributes"]] == [a.keys() for a in after["attributes"]]
    for mine, theirs in zip(before["attributes"], after["attributes"], strict=True):
        for key in mine:
            assert mine[key] is theirs[key] or mine[key] == theirs[key], key


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("score", [bgsc, missing_operators])
def test_a_model_that_changes_itself_is_put_back(training, score):
    model = Restless().train(training)
    model.norm.eval()
    model.register_forward_hook(lambda module, args, output: None)
    before = photograph(model)
    score(model, torch.ones(2, 3))
    assert_same(before, photograph(model))


@pytest.mark.parametrize("score", [bgsc, missing_operators])
def test_also_when_it_raises_half_way(score):
    model = Restless().train()
    model.fail = True
    before = photograph(model)
    with pytest.raises(OSError, match="half-way"):
        score(model, torch.ones(2, 3))
    assert_same(before, photograph(model))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "levit_128s"])
def test_timm_models_are_left_alone(name):
    model = timm.create_model(name).train()
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    before = photograph(model)
    bgsc(model, torch.zeros(1, *model.pretrained_cfg["input_size"]))
    assert_same(before, photograph(model))


def test_a_cache_filled_earlier_keeps_its_contents_and_identity():
    model = nn.Sequential(nn.Linear(2, 2))
    model.cache = cache = {"a": torch.ones(2)}
    held = cache["a"]
    with evaluating(model):
        model.cache["a"] = torch.zeros(2)
        model.cache["b"] = 1
        model.cache = {}
    assert model.cache is cache and cache["a"] is held and list(cache) == ["a"]


def test_random_numbers_drawn_by_the_forward_do_not_count():
    model = Restless()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bgsc(model, torch.ones(2, 3))
    assert torch.equal(torch.rand(3), expected)
