"""Couplings of random networks are a partition, and whatever they allow to be cut can be."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from hypothesis import given, settings
from torch import Tensor, nn

from dfpc_plugin.couplings import CouplingMap, map_couplings
from dfpc_plugin.surgery import cut
from random_blocks import networks
from random_nets import graphs
from tiny_nets import Graph, Net
from zero_cut import difference, error_of_cut, masked_statistics, outputs, random_units, randomise, state, zero_channels

SETTINGS = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def assert_partition(model: nn.Module, couplings: CouplingMap) -> None:
    """Every index of every labelled dimension lies in exactly one coupling."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    sizes: dict[tuple[str, int], int] = {}
    named = state(model)
    for coupling in couplings.couplings:
        assert len(coupling.blocks.unique()) == coupling.blocks.numel()
        for piece in coupling.slices:
            found[piece.tensor, piece.dim] += piece.indices.reshape(-1).tolist()
            sizes[piece.tensor, piece.dim] = named[piece.tensor].size(piece.dim) * piece.groups
    assert {place: sorted(indices) for place, indices in found.items()} == {
        place: list(range(size)) for place, size in sizes.items()
    }
    assert {name for name, _ in found} == {
        name for name, tensor in named.items() if max(tensor.shape[:2], default=1) > 1
    }


def freely_chosen(couplings: CouplingMap, number: int, seed: int) -> Tensor:
    """One channel of every block, each wherever it likes."""
    blocks = couplings.couplings[number].blocks
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(blocks.size(1), (len(blocks),), generator=generator)
    return blocks[torch.arange(len(blocks)), picked]


def assert_cuttable(model: nn.Module, inputs: Any) -> None:
    """One unit of each coupling, channels of blocks chosen freely, and two units of all at once."""
    couplings = map_couplings(model, inputs)
    assert_partition(model, couplings)
    start = dict(vars(couplings.channels))
    before = parameters(model)
    singles = random_units(couplings, 0, seed=2, least=1)
    for number, unit in singles.items():
        for gone in (couplings.couplings[number].blocks[:, unit].flatten(), freely_chosen(couplings, number, 3)):
            zeroed, smaller = copy.deepcopy(model), copy.deepcopy(model)
            zero_channels(zeroed, couplings, gone)
            vars(couplings.channels).update(start)
            cut(smaller, couplings, gone)
            with masked_statistics():
                error = difference(outputs(zeroed, inputs), outputs(smaller, inputs))
            assert error < 1e-9, f"{error}: {gone.tolist()} of {couplings.couplings[number]}"
            assert parameters(smaller) < before
    vars(couplings.channels).update(start)
    units = random_units(couplings, 0, seed=4, least=2)
    if units:
        with masked_statistics():
            assert error_of_cut(model, couplings, inputs, units) < 1e-9
        assert parameters(model) < before


@settings(SETTINGS, max_examples=150)
@given(networks())
def test_blocks_of_every_kind(drawn: tuple[nn.Module, Any]) -> None:
    assert_cuttable(*drawn)


@SETTINGS
@given(graphs(activations=("ReLU", "Sigmoid", "Softplus"), maxpool=True))
def test_small_convolutional_networks(graph: Graph) -> None:
    model = Net(graph)
    assert_cuttable(randomise(model), model.example(2))
