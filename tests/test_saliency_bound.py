"""What BGSC promises: zeroing a coupling's channel changes the feed-out layers' outputs by at most its score.

The change is in L1, for inputs of the feed-in layers bounded by 1: a pre-hook gives each of them its own
random input, so that the test sees one coupling at a time. Biases of feed-in layers are outside the promise
(BGSC drops them): networks either have none there, or keep theirs while the weights go.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coupled_channels import Couplings
from dfpc_plugin import Saliency, bgsc
from oracles import Element
from random_nets import graphs
from tiny_nets import Graph, Net

SETTINGS = settings(max_examples=50, deadline=None, database=None, derandomize=True)
ACTIVATIONS = ("ReLU", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Tanh", "Hardswish")
DRAWS = 64
SLACK = 1 + 1e-9
Inputs = dict[str, list[Tensor]]


def isolated_inputs(net: Net, draws: int, seed: int) -> Inputs:
    """For every call of every feed-in layer, inputs in [-1, 1]: ones, corners of the cube, and its inside."""
    generator = torch.Generator().manual_seed(seed)
    inputs: Inputs = {}
    for node in filter(net.graph.is_feed, net.graph.nodes):
        x = 2 * torch.rand(draws, *net.graph.shapes[node.inputs[0]], generator=generator, dtype=torch.float64) - 1
        x[: draws // 2] = torch.sign(x[: draws // 2])
        x[0] = 1
        inputs.setdefault(node.layer, []).append(x)
    return inputs


def feed_out_outputs(net: Net, weights_of: Net, inputs: Inputs) -> list[Tensor]:
    """What every feed-out layer, with the weights of `weights_of`, makes of what reaches it in `net`."""
    outputs: list[Tensor] = []
    calls = dict.fromkeys(inputs, 0)

    def cut(name: str):
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            outputs.append(getattr(weights_of, name).forward(args[0]))
            calls[name] += 1
            return (inputs[name][calls[name] - 1],)

        return hook

    handles = [getattr(net, name).register_forward_pre_hook(cut(name)) for name in inputs]
    draws = len(next(iter(inputs.values()))[0])
    with torch.no_grad():
        net(*(torch.zeros(draws, *shape, dtype=torch.float64) for shape in net.graph.inputs.values()))
    for handle in handles:
        handle.remove()
    return outputs


def without(net: Net, channels: Iterable[Element], bias: bool) -> Net:
    """A copy with these output channels' weights zero, and their biases if `bias`."""
    copy = deepcopy(net)
    for name, channel in channels:
        layer = getattr(copy, name)
        with torch.no_grad():
            if isinstance(layer, nn.ConvTranspose2d):
                width, inputs = layer.out_channels // layer.groups, layer.in_channels // layer.groups
                group = channel // width
                layer.weight[group * inputs : (group + 1) * inputs, channel % width] = 0
            else:
                layer.weight[channel] = 0
            if bias and layer.bias is not None:
                layer.bias[channel] = 0
    return copy


def score(saliency: Saliency, members: Iterable[Element]) -> float:
    return sum(float(saliency[layer][channel]) for layer, channel in members if layer in saliency)


def changes(net: Net, inputs: Inputs, members: Iterable[Element], bias: bool) -> Tensor:
    """L1 change of all feed-out layers' outputs, one number per draw, when these channels go."""
    before = feed_out_outputs(net, net, inputs)
    after = feed_out_outputs(without(net, members, bias), net, inputs)
    return torch.stack([(x - y).abs().flatten(1).sum(1) for x, y in zip(before, after, strict=True)]).sum(0)


@SETTINGS
@given(graphs(activations=ACTIVATIONS, maxpool=True, bias=False), st.integers(0, 2**16))
def test_zeroing_a_channel_changes_no_more_than_its_score(graph, seed):
    net = Net(graph, seed)
    saliency, inputs = bgsc(net, net.example()), isolated_inputs(net, DRAWS, seed)
    for members in Couplings(graph).groups.values():
        assert changes(net, inputs, members, bias=True).max() <= score(saliency, members) * SLACK


@SETTINGS
@given(graphs(activations=ACTIVATIONS, maxpool=True), st.integers(0, 2**16))
def test_the_bound_holds_when_biases_stay(graph, seed):
    net = Net(graph, seed)
    saliency, inputs = bgsc(net, net.example()), isolated_inputs(net, DRAWS, seed)
    for members in Couplings(graph).groups.values():
        assert changes(net, inputs, members, bias=False).max() <= score(saliency, members) * SLACK


@SETTINGS
@given(graphs(maxpool=True, bias=False), st.integers(0, 2**16))
def test_the_bound_is_attained_without_negative_weights(graph, seed):
    """No smaller score would do: where all weights and inputs are positive, nothing cancels or is cut off."""
    net = Net(graph, seed)
    for name, value in net.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            value.zero_()
        elif value.is_floating_point():
            value.abs_()
    saliency, inputs = bgsc(net, net.example()), isolated_inputs(net, 1, seed)
    for members in Couplings(graph).groups.values():
        expected = score(saliency, members)
        assert changes(net, inputs, members, bias=True).item() == pytest.approx(expected, rel=1e-9, abs=1e-300)


# Steepest slope of each activation (nearly): what a bound must allow for, wherever BatchNorm's shift puts it.
STEEPEST = {
    ("ReLU", ()): 1.0,
    ("LeakyReLU", (0.2,)): 1.0,
    ("LeakyReLU", (1.5,)): 1.5,
    ("GELU", ()): 1.12,
    ("GELU", ("tanh",)): 1.12,
    ("SiLU", ()): 1.09,
    ("Sigmoid", ()): 0.24,
    ("Tanh", ()): 0.99,
    ("Hardswish", ()): 1.47,
}


@pytest.mark.parametrize(("kind", "args"), STEEPEST, ids=lambda value: str(value))
def test_activations_at_every_operating_point(kind, args):
    """One channel per operating point from -6 to 6, small steps from each, so the steepest slope is met."""
    shifts = torch.linspace(-6, 6, 241, dtype=torch.float64)
    graph = Graph({"x": (1, 1, 1)})
    norm = ("bn", {"eps": 0.0})
    graph.chain("x", ("conv", {"out": 241}), norm, ("act", {"kind": kind, "args": args}), ("conv", {"out": 1}))
    net = Net(graph)
    with torch.no_grad():
        net.bn1.running_var.fill_(1)
        net.bn1.running_mean.fill_(0)
        net.bn1.weight.fill_(1)
        net.bn1.bias.copy_(shifts)
        net.conv0.bias.zero_()
        net.conv0.weight.fill_(0.05)
        net.conv3.weight.fill_(1)
    saliency, inputs = bgsc(net, net.example()), isolated_inputs(net, 8, seed=0)
    allowed = score(saliency, [("conv0", 0)]) / 0.05
    points = torch.linspace(-6, 6, 200_001, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net.act2(points).sum(), points)
    assert gradient.abs().max() <= allowed * (1 + 1e-12)
    slopes = []
    for channel in range(241):
        change = changes(net, inputs, [("conv0", channel)], bias=True).max().item()
        assert change <= score(saliency, [("conv0", channel)]) * SLACK
        slopes.append(change / 0.05)
    assert max(slopes) > STEEPEST[kind, args]  # the sampling is fine enough to catch a rule that forgets the slope
