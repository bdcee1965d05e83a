"""The ranking by the error at the outputs: shares of the outputs' variance, carried back through all layers."""

import math

import pytest
import torch
from torch import nn

from dfpc_plugin import DFPCImportance, bgsc, prune

X = torch.zeros(1, 5, dtype=torch.float64)
IMAGE = torch.zeros(1, 3, 12, 12)


def output(model, x=X):
    return bgsc(model, x, ranking="output")


def filled(model, seed=0):
    """Random weights, scales, biases and statistics."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
            if "running_var" in name:
                tensor.abs_().add_(0.1)
    return model.eval()


def rectified_variance(mean, deviation):
    """Of max(x, 0) for a normal x, in closed form."""
    z = mean / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    first = mean * below + deviation * density
    return (mean.square() + deviation.square()) * below + mean * deviation * density - first.square()


def perceptron():
    layers = (
        nn.Linear(5, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Linear(7, 4),
    )
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("seed", range(3))
def test_shares_of_a_perceptron_are_the_sums_done_by_hand(seed):
    model = filled(perceptron(), seed)
    _, norm_one, _, second, norm_two, _, last = model
    first_var, second_var = (
        rectified_variance(norm.bias.detach(), norm.weight.detach().abs()) for norm in (norm_one, norm_two)
    )
    at_last = last.weight.detach().square().sum(0) * second_var
    at_last /= at_last.sum()
    of_inputs = second.weight.detach().square() * first_var
    at_first = (at_last[:, None] * of_inputs / of_inputs.sum(1, keepdim=True)).sum(0)
    scores = output(model)
    torch.testing.assert_close(scores["3"], at_last, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(scores["0"], at_first, rtol=2e-3, atol=1e-6)


class Block(nn.Module):
    """A residual network with a depthwise layer, a gate and a group norm."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.expand, self.expanded = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depthwise, self.middle = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.reduce, self.reduced = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.group, self.head = nn.GroupNorm(3, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        inside = self.middle(self.depthwise(self.expanded(self.expand(x)).relu())).relu()
        x = x + self.reduced(self.reduce(inside))
        return self.head(self.group(self.up(x)).relu().mean((2, 3)))


def test_what_every_signal_passes_has_all_of_the_outputs_variance():
    scores = output(filled(Block()), IMAGE)
    assert scores["up"].sum().item() == pytest.approx(1, rel=1e-4)
    stem, branch = scores["stem"].sum().item(), scores["reduce"].sum().item()
    assert 0 < branch < 1 and stem > branch  # part of the stem's share goes through the branch
    assert scores["expand"].sum().item() == pytest.approx(branch, rel=1e-4)
    stream = scores.scores(next(c for c in scores.couplings if "stem" in c.feed_in))
    assert stream.sum().item() == pytest.approx(stem + branch, rel=1e-6)


def test_a_branch_counts_by_what_it_adds_to_the_stream():
    model = filled(Block())
    before = output(model, IMAGE)["expand"].sum().item()
    with torch.no_grad():
        model.reduced.weight.mul_(0.1)
    after = output(model, IMAGE)["expand"].sum().item()
    assert after / (1 - after) == pytest.approx(0.01 * before / (1 - before), rel=0.02)


@pytest.mark.parametrize("layer", ["expand", "up", "stem"])
def test_a_useless_channel_goes_first_and_an_essential_one_last(layer):
    model = filled(Block())
    readers = {"expand": ("reduce", 1), "up": ("head", 1), "stem": ("expand", 1)}
    name, axis = readers[layer]
    with torch.no_grad():
        weight = getattr(model, name).weight
        weight.select(axis, 2).zero_()
        weight.select(axis, 4).mul_(30)
        if layer == "stem":  # what is left of it is the shortcut, which the next layers read
            model.norm.weight[2] = model.norm.bias[2] = model.reduced.weight[2] = model.reduced.bias[2] = 0
    scores = output(model, IMAGE)
    own = scores.scores(next(c for c in scores.couplings if layer in c.feed_in))
    assert own.argmin() == 2 and own.argmax() == 4


@pytest.mark.parametrize("kind", ["lstm", "attention", "bilinear"])
def test_layers_without_a_rule_of_their_own_pass_what_they_have_read_on(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
            self.lstm = nn.LSTM(8, 8, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.bilinear = nn.Bilinear(8, 8, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            x = self.norm(self.first(x))
            if kind == "lstm":
                x = self.lstm(x)[0]
            elif kind == "attention":
                x = self.attention(x, x, x)[0]
            else:
                x = self.bilinear(x, x)
            return self.head(x)

    scores = output(filled(Net()), torch.zeros(1, 5, 4))
    assert 0 < scores["first"].sum() < 1.001 and (scores["first"] >= 0).all()


def test_several_outputs_count_alike():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.loud, self.quiet = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            x = self.first(x).relu()
            return {"loud": self.loud(x), "quiet": self.quiet(x)}

    model = filled(Two().double())
    scores = output(model)["first"]
    assert scores.sum().item() == pytest.approx(2, rel=1e-6)
    with torch.no_grad():
        model.loud.weight.mul_(100)
    torch.testing.assert_close(output(model)["first"], scores)


def test_it_is_offered_where_models_are_pruned():
    model = filled(Block())
    result = prune(model, IMAGE, "macs=0.7", importance=DFPCImportance("output"), per="macs")
    assert 0.5 < result.reached["macs"] <= 0.7
