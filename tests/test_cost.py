"""Costs of cut models, foretold, against what PyTorch counts once the cut is made."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budget_nets import SMALL, TIMM, counted, make
from dfpc_plugin.cost import Cost, CostModel
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.surgery import cut
from random_blocks import networks
from zero_cut import random_units, removed_channels

ALL = (*SMALL, *TIMM)
HEADS = ("fused attention", "attention by hand", "torch attention", "test_vit")


def gone_with(couplings, channels):
    """`channels` (their numbers) as `CostModel` takes them."""
    removed = torch.zeros_like(couplings.channels.removed)
    removed[channels] = True
    return removed


def random_cuts(couplings, seeds=(1, 2), shares=(0.3, 0.8)):
    """Channels of random units of random shares of all couplings."""
    for seed, share in zip(seeds, shares, strict=True):
        yield removed_channels(couplings, random_units(couplings, share, seed, least=1))


def assert_counted(model, inputs, couplings, channels):
    """What is foretold of a cut is what the cut model costs."""
    foretold = CostModel(couplings.channels).cost(gone_with(couplings, channels))
    cut(model, couplings, channels)
    assert foretold == counted(model, inputs)


@pytest.mark.parametrize("name", ALL)
def test_nothing_removed_costs_what_the_model_does(name):
    model, inputs = make(name)
    costs = CostModel(map_couplings(model, inputs).channels)
    assert costs.full == counted(model, inputs) and costs.full.macs > 0


@pytest.mark.parametrize("name", ALL)
def test_cuts_cost_what_is_counted_after_them(name):
    model, inputs = make(name)
    for channels in random_cuts(map_couplings(model, inputs)):
        pruned = copy.deepcopy(model)
        assert_counted(pruned, inputs, map_couplings(pruned, inputs), channels)


@pytest.mark.parametrize("name", HEADS)
def test_whole_heads_cost_what_is_counted_without_them(name):
    model, inputs = make(name)
    couplings = map_couplings(model, inputs, whole_heads=True)
    assert any(coupling.whole_heads for coupling in couplings.couplings)
    for channels in random_cuts(couplings, shares=(0.5, 0.7)):
        pruned = copy.deepcopy(model)
        assert_counted(pruned, inputs, map_couplings(pruned, inputs, whole_heads=True), channels)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(networks(max_blocks=3), st.integers(0, 2**16), st.sampled_from((0.2, 0.5, 0.9)))
def test_random_networks_cost_what_is_counted(network, seed, share):
    model, inputs = network
    couplings = map_couplings(model, inputs)
    costs = CostModel(couplings.channels)
    assert costs.full == counted(model, inputs)
    units = random_units(couplings, share, seed, least=1)
    if units:
        assert_counted(model, inputs, couplings, removed_channels(couplings, units))


def test_a_second_cut_counts_from_the_uncut_model():
    """Channels that are gone already count as gone only where they are given."""
    model, inputs = make("residual")
    couplings = map_couplings(model, inputs)
    full = CostModel(couplings.channels).full
    channels = next(random_cuts(couplings))
    cut(model, couplings, channels)
    costs = CostModel(couplings.channels)
    assert costs.full == full and costs.cost(couplings.channels.removed) == counted(model, inputs) != full


@pytest.mark.parametrize("name", ALL)
def test_a_saving_is_the_difference_of_two_costs(name):
    model, inputs = make(name)
    couplings = map_couplings(model, inputs)
    costs = CostModel(couplings.channels)
    generator = torch.Generator().manual_seed(3)
    free = [coupling for coupling in couplings.couplings if coupling.protected is None]
    for _ in range(15):
        removed = torch.rand(couplings.channels.removed.shape, generator=generator) < 0.3
        coupling = free[int(torch.randint(len(free), (), generator=generator))]
        some = torch.randperm(coupling.channels, generator=generator)[: 1 + coupling.channels // 3]
        channels = coupling.blocks[:, some].reshape(-1)
        given = removed.clone()
        expected = costs.cost(removed) - costs.cost(removed | gone_with(couplings, channels))
        assert costs.saving(removed, channels) == expected
        assert torch.equal(removed, given), "what is given is not written to"


@pytest.mark.parametrize("name", ("residual", "fused attention", "grouped", "test_resnet"))
def test_couplings_without_common_terms_save_independently(name):
    model, inputs = make(name)
    couplings = map_couplings(model, inputs)
    costs = CostModel(couplings.channels)
    nothing = torch.zeros_like(couplings.channels.removed)
    blocks = [coupling.blocks[:, 0] for coupling in couplings.couplings if coupling.protected is None]
    apart = 0
    for one in blocks:
        assert costs.neighbours(one) & costs.neighbours(one)
        for other in blocks:
            alone, later = costs.saving(nothing, one), costs.saving(gone_with(couplings, other), one)
            if not costs.neighbours(one) & costs.neighbours(other):
                apart += 1
                assert alone == later
            elif one is not other:
                assert alone.macs >= later.macs and alone.parameters >= later.parameters
    assert apart or len(blocks) < 4


def test_costs_add_and_subtract():
    assert Cost(5, 7) + Cost(1, 2) == Cost(6, 9) and Cost(5, 7) - Cost(1, 2) == Cost(4, 5)
