"""What must not change the scores, and what they must add up to."""

from __future__ import annotations

from collections import Counter, defaultdict
from copy import deepcopy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coupled_channels import Couplings
from dfpc_plugin import bgsc
from named_nets import NAMED
from oracles import Element
from random_nets import graphs
from tiny_nets import Net

SETTINGS = settings(max_examples=60, deadline=None, database=None, derandomize=True)
seeds = st.integers(0, 2**16)


def alike(groups: dict[Element, frozenset[Element]]) -> list[list[Element]]:
    """Sets of couplings' channels that lie in the same layers, and so may be exchanged for each other."""
    kinds: defaultdict[tuple[str, ...], list[Element]] = defaultdict(list)
    for root, members in groups.items():
        kinds[tuple(sorted(layer for layer, _ in members))].append(root)
    return list(kinds.values())


def order(labels: list[Element | None], moves: dict[Element, Element]) -> list[int]:
    """Old position that each new one takes its channel from; label `l` is to hold what `moves[l]` held."""
    places: defaultdict[Element | None, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        places[label].append(position)
    seen: Counter[Element | None] = Counter()
    result = []
    for label in labels:
        target = label if label is None else moves.get(label, label)
        result.append(places[target][seen[label]])
        seen[label] += 1
    return result


def permuted(net: Net, couplings: Couplings, moves: dict[Element, Element]) -> Net:
    """The same function with some channels stored in another order: rows, BatchNorm, depthwise, columns."""
    copy = deepcopy(net)
    for node in filter(lambda node: hasattr(net, node.layer), net.graph.nodes):
        old, new = getattr(net, node.layer), getattr(copy, node.layer)
        reads = order(couplings.labels[node.inputs[0]], moves)
        writes = order(couplings.labels[node.name], moves)
        for name, value in old.state_dict().items():
            if value.ndim == 0:
                continue
            if not net.graph.is_feed(node) or name == "bias":
                moved = value[writes]
            elif isinstance(old, nn.ConvTranspose2d):
                moved = value[reads][:, writes]
            else:
                moved = value[writes][:, reads]
            new.state_dict()[name].copy_(moved)
    return copy


def readers_among_members(net: Net, couplings: Couplings, roots: list[Element]) -> bool:
    """Whether a layer reads one of these channels and writes one of them."""
    writers = {layer for root in roots for layer, _ in couplings.groups[root]}
    readers = (node for node in net.graph.nodes if node.layer in writers)
    return any(set(couplings.labels[node.inputs[0]]) & set(roots) for node in readers)


def rescaled(net: Net, couplings: Couplings, factors: dict[Element, float]) -> Net:
    """The same function: channels times a factor where they are written, divided by it where read."""
    copy = deepcopy(net)
    for node in filter(lambda node: hasattr(net, node.layer), net.graph.nodes):
        layer = getattr(copy, node.layer)
        reads, writes = (
            torch.tensor([1.0 if x is None else factors.get(x, 1.0) for x in couplings.labels[name]]).double()
            for name in (node.inputs[0], node.name)
        )
        with torch.no_grad():
            if getattr(layer, "bias", None) is not None:
                layer.bias.mul_(writes)
            if net.graph.is_feed(node):
                rows, columns = (1, 0) if isinstance(layer, nn.ConvTranspose2d) else (0, 1)
                layer.weight.copy_((layer.weight.movedim(rows, -1) * writes).movedim(-1, rows))
                layer.weight.copy_((layer.weight.movedim(columns, -1) / reads).movedim(-1, columns))
    return copy


def assert_same_function(net: Net, other: Net, last_moves: list[list[int]] | None = None) -> None:
    x = net.example(batch=2)
    with torch.no_grad():
        outputs, others = net(x), other(x)
    pairs = zip(*((y,) if isinstance(y, Tensor) else y for y in (outputs, others)), strict=True)
    for at, (y, z) in enumerate(pairs):
        expected = y if last_moves is None else y[:, last_moves[at]]
        assert torch.allclose(expected, z, rtol=1e-9, atol=1e-9)


@SETTINGS
@given(graphs(groups=False), seeds)
def test_permuting_a_couplings_channels_permutes_its_scores(graph, seed):
    net, couplings = Net(graph, seed), Couplings(graph)
    kinds = [roots for roots in alike(couplings.groups) if len(roots) > 1]
    assume(kinds)
    generator = torch.Generator().manual_seed(seed)
    roots = kinds[seed % len(kinds)]
    moves = {root: roots[i] for root, i in zip(roots, torch.randperm(len(roots), generator=generator), strict=True)}
    other = permuted(net, couplings, moves)
    assert_same_function(net, other, [order(couplings.labels[name], moves) for name in graph.sinks()])
    before, after = bgsc(net, net.example()), bgsc(other, net.example())
    assert set(before) == set(after)
    for node in filter(graph.is_feed, graph.nodes):
        if node.layer in before:
            expected = before[node.layer][order(couplings.labels[node.name], moves)]
            assert torch.allclose(after[node.layer], expected, rtol=1e-10, atol=0), node.layer


@SETTINGS
@given(graphs(groups=False, batchnorm=False), seeds)
def test_moving_scale_from_producers_to_consumers_keeps_a_couplings_scores(graph, seed):
    """Rows times k, columns by 1 / k, a factor per channel.

    Only for couplings that no layer both writes and reads: its rows would change for another reason.
    """
    net, couplings = Net(graph, seed), Couplings(graph)
    shown = {label for name in graph.sinks() for label in couplings.labels[name]}
    kinds = [roots for roots in alike(couplings.groups) if not shown & set(roots)]
    kinds = [roots for roots in kinds if not readers_among_members(net, couplings, roots)]
    assume(kinds)
    roots = kinds[seed % len(kinds)]
    generator = torch.Generator().manual_seed(seed)
    factors = {root: float(torch.empty(1).uniform_(0.1, 10, generator=generator)) for root in roots}
    other = rescaled(net, couplings, factors)
    assert_same_function(net, other)
    before, after = bgsc(net, net.example()), bgsc(other, net.example())
    for layer, channel in (element for root in roots for element in couplings.groups[root]):
        assert float(after[layer][channel]) == pytest.approx(float(before[layer][channel]), rel=1e-10)


def total_magnitude(net: Net) -> float:
    """What all feed-out layers read, from a copy with absolute weights that starts anew at every layer."""
    copy = deepcopy(net)
    for name, value in copy.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            value.zero_()
        elif value.is_floating_point():
            value.abs_()
    total = 0.0

    def restart(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        nonlocal total
        total += float(module.forward(args[0]).sum())
        return (torch.ones_like(args[0]),)

    for layer in {node.layer for node in filter(net.graph.is_feed, net.graph.nodes)}:
        getattr(copy, layer).register_forward_pre_hook(restart)
    with torch.no_grad():
        copy(*(torch.zeros(1, *shape, dtype=torch.float64) for shape in net.graph.inputs.values()))
    return total


@SETTINGS
@given(graphs(maxpool=True), seeds)
def test_scores_add_up_to_what_the_feed_out_layers_read(graph, seed):
    net = Net(graph, seed)
    total = sum(float(scores.sum()) for scores in bgsc(net, net.example()).values())
    assert total == pytest.approx(total_magnitude(net), rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("name", NAMED)
def test_scores_of_named_networks_add_up_and_sum_over_the_batch(name):
    net = Net(NAMED[name](), seed=7)
    one, three = bgsc(net, net.example()), bgsc(net, net.example(batch=3))
    assert sum(float(scores.sum()) for scores in one.values()) == pytest.approx(total_magnitude(net), rel=1e-10)
    assert set(one) == set(three)
    for layer, scores in one.items():
        assert torch.allclose(three[layer], 3 * scores, rtol=1e-10, atol=0), layer
