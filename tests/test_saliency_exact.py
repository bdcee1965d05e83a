"""`bgsc` against brute force: explicit operator matrices, multiplied along every path."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coupled_channels import Couplings
from dfpc_plugin import bgsc
from dfpc_plugin.errors import DFPCError
from named_nets import IMAGE, NAMED, SAME
from oracles import Operators, magnitude, relative_error, relative_saliency, saliency_by_paths
from random_nets import graphs
from tiny_nets import Graph, Net

SETTINGS = settings(max_examples=120, deadline=None, database=None, derandomize=True)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
seeds = st.integers(0, 2**16)


def check(net: Net, tolerance: float, ranking: str = "published") -> None:
    expected = saliency_by_paths(net) if ranking == "published" else relative_saliency(net)
    saliency = bgsc(net, net.example(), ranking=ranking)
    for layer, scores in expected.items():
        assert relative_error(saliency[layer], scores) < tolerance, layer
    assert all(layer in expected or not saliency[layer].any() for layer in saliency)


@pytest.mark.parametrize("name", NAMED)
def test_exactly_the_layers_that_are_read_have_scores(name):
    net = Net(NAMED[name]())
    assert set(bgsc(net, net.example())) == set(saliency_by_paths(net))


def test_an_unread_layer_of_a_coupling_that_is_read_scores_zero():
    """The sum of both layers goes nowhere; only the first layer is read, before the addition."""
    graph = Graph(dict(IMAGE))
    t = graph.add("conv", "x", out=3, **SAME)
    graph.add("conv", t, out=2)
    graph.add("add", t, graph.add("conv", "x", out=3))
    net = Net(graph)
    assert set(saliency_by_paths(net)) == {"conv0"}
    found = bgsc(net, net.example())
    assert set(found) == {"conv0", "conv2"} and found["conv2"].eq(0).all()
    assert found.couplings[0].feed_in == ("conv0", "conv2")


@pytest.mark.parametrize("name", NAMED)
def test_two_brute_force_oracles_agree(name):
    """The oracle itself: path products against pushing one channel's magnitude forward."""
    net = Net(NAMED[name](), seed=3)
    operators = Operators(net)
    for layer, scores in saliency_by_paths(net).items():
        forward = np.array([magnitude(operators, [(layer, channel)]) for channel in range(len(scores))])
        assert np.allclose(scores, forward, rtol=1e-12, atol=0)


def test_oracle_on_numbers_done_by_hand():
    """Two 1x1 convolutions with BatchNorm between, on two positions: every number can be checked on paper."""
    graph = Graph({"x": (2, 1, 2)})
    graph.chain("x", ("conv", {"out": 2}), ("bn", {"eps": 0.0}), ("conv", {"out": 1}))
    net = Net(graph)
    with torch.no_grad():
        net.conv0.weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]])[..., None, None])
        net.bn1.weight.copy_(torch.tensor([-4.0, 3.0]))
        net.bn1.running_var.copy_(torch.tensor([4.0, 9.0]))
        net.conv2.weight.copy_(torch.tensor([[10.0, -1.0]])[..., None, None])
    expected = np.array([2 * 3 * 2 * 10, 2 * 0.5 * 1 * 1])  # positions, row sum, |gamma| / deviation, column sum
    assert np.allclose(saliency_by_paths(net)["conv0"], expected, rtol=1e-14)
    assert relative_error(bgsc(net, net.example())["conv0"], expected) < 1e-12


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMED)
def test_named_networks(name, dtype):
    check(Net(NAMED[name](), seed=5, dtype=dtype), TOLERANCE[dtype])


@SETTINGS
@given(graphs(), seeds)
def test_random_networks_in_double_precision(graph, seed):
    check(Net(graph, seed), 1e-9)


@SETTINGS
@given(graphs(), seeds)
def test_random_networks_in_single_precision(graph, seed):
    check(Net(graph, seed, torch.float32), 1e-4)


@settings(SETTINGS, max_examples=60)
@given(graphs(), seeds)
def test_relative_ranking_of_random_networks(graph, seed):
    check(Net(graph, seed), 1e-9, ranking="relative")


@pytest.mark.parametrize("name", sorted(set(NAMED) - {"two_inputs"}))  # there an input reaches a layer as it is
def test_relative_ranking_of_named_networks(name):
    check(Net(NAMED[name](), seed=5), 1e-9, ranking="relative")


@settings(SETTINGS, max_examples=60)
@given(graphs(maxpool=True), seeds)
def test_random_networks_with_max_pooling(graph, seed):
    """A coupling's channel scores what its magnitudes alone make of the feed-out layers, maxima included.

    Which of its feed-in layers gets how much is not unique where two positions tie, so the sum is compared.
    """
    net = Net(graph, seed)
    operators, saliency = Operators(net), bgsc(net, net.example())
    for members in Couplings(graph).groups.values():
        expected = magnitude(operators, members)
        found = sum(float(saliency[layer][channel]) for layer, channel in members if layer in saliency)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("kind", ["ReLU", "ReLU6", "LeakyReLU", "ELU", "Tanh", "Identity", "Dropout", "Hardtanh"])
def test_activations_of_slope_at_most_one_leave_magnitudes_alone(kind):
    graph = Graph(dict(IMAGE))
    graph.chain("x", ("conv", {"out": 4, **SAME}), ("bn", {}), ("act", {"kind": kind}), ("conv", {"out": 2}))
    check(Net(graph), 1e-9)


@pytest.mark.parametrize("style", ["module called by keyword", "functional", "operator", "method", "in place"])
def test_the_way_a_sum_is_written_does_not_matter(style):
    ways = {
        "module called by keyword": lambda net, y, t: net.relu(input=torch.add(input=y, other=t)),
        "functional": lambda net, y, t: torch.nn.functional.relu(torch.add(y, t)),
        "operator": lambda net, y, t: torch.relu(y + t),
        "method": lambda net, y, t: y.add(t).relu(),
        "in place": lambda net, y, t: y.__iadd__(t).relu_(),
    }

    class Written(Net):
        def forward(self, x):
            t = self.conv0(x)
            y = ways[style](self, self.bn2(self.conv1(t)), t)
            return self.conv5(y)

    graph = Graph(dict(IMAGE))
    t = graph.add("conv", "x", out=3, **SAME)
    y = graph.chain(t, ("conv", {"out": 3, **SAME}), ("bn", {}))
    graph.chain(graph.add("add", y, t), ("relu", {}), ("conv", {"out": 2}))
    assert [node.name for node in graph.nodes] == ["conv0", "conv1", "bn2", "add3", "relu4", "conv5"]
    net = Written(graph)
    net.relu = torch.nn.ReLU()
    check(net, 1e-9)


def test_named_inputs():
    net = Net(NAMED["two_inputs"]())
    left, right = net.example()
    expected = saliency_by_paths(net)
    saliency = bgsc(net, {"right": right, "left": left})
    for layer, scores in expected.items():
        assert relative_error(saliency[layer], scores) < 1e-9


@pytest.mark.parametrize("name", ["residual", "two_inputs", "padded"])
def test_values_of_inputs_and_biases_do_not_matter(name):
    """Only shapes do, and the model is left as it was, bit for bit."""
    net = Net(NAMED[name]())
    saliency = bgsc(net, net.example())
    other = deepcopy(net)
    with torch.no_grad():
        for key, value in other.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                value.fill_(1e3)
    before = deepcopy(other.state_dict())
    loud = other.example()
    loud = tuple(-1e3 * x for x in loud) if isinstance(loud, tuple) else -1e3 * loud
    found = bgsc(other, loud)
    assert all(torch.equal(saliency[layer], found[layer]) for layer in saliency)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_the_models_mode_does_not_matter():
    net = Net(NAMED["bottleneck"]())
    expected = bgsc(net, net.example())
    found = bgsc(net.train(), net.example())
    assert all(torch.equal(found[layer], scores) for layer, scores in expected.items())
    assert all(module.training for module in net.modules())


def test_result_is_double_precision_on_the_cpu():
    net = Net(NAMED["plain"](), dtype=torch.float32)
    for scores in bgsc(net, net.example()).values():
        assert scores.dtype == torch.float64 and scores.device.type == "cpu" and not scores.requires_grad
        assert scores.ndim == 1 and bool((scores >= 0).all())


@pytest.mark.parametrize("name", sorted(set(NAMED) - {"grouped", "nested_streams"}))  # no channel map for a shuffle
def test_layer_couplings(name):
    """Layers that meet in an addition are one coupling, read by the layers that its channels reach."""
    graph = NAMED[name]()
    net, couplings = Net(graph), Couplings(graph)
    saliency = bgsc(net, net.example())
    expected: dict[frozenset[str], set[str]] = {}
    for members in couplings.groups.values():
        layers = frozenset(layer for layer, _ in members)
        readers = {
            node.layer for node in filter(graph.is_feed, graph.nodes) if members & set(couplings.labels[node.inputs[0]])
        }
        if readers:
            expected.setdefault(layers, set()).update(readers)
    found = {frozenset(coupling.feed_in): set(coupling.feed_out) for coupling in saliency.couplings}
    assert found == expected
    for coupling in saliency.couplings:
        scores = [saliency[layer] for layer in coupling.feed_in]
        if len({len(x) for x in scores}) == 1:
            assert torch.allclose(saliency.scores(coupling), sum(scores, start=torch.zeros(())), rtol=1e-14)
        else:  # a depthwise multiplier lies between: positions do not correspond
            with pytest.raises(DFPCError):
                saliency.scores(coupling)
