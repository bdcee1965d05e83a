"""In which order units go, against every selection there is and against a greedy one that looks at every price."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budget_nets import make
from dfpc_plugin.cost import CostModel
from dfpc_plugin.couplings import DataFlowCoupling, map_couplings
from dfpc_plugin.selection import Candidate, Order, by_saliency, by_saliency_per_cost
from random_blocks import networks

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
NETS = ("convolutions", "grouped", "residual", "fused attention", "concatenation", "shared")
KINDS = ("macs", "parameters")


@st.composite
def loose_candidates(draw):
    """Couplings of no model, with saliencies that may be equal."""
    found, first = [], 1
    for units in draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)):
        saliency = torch.tensor(draw(st.lists(st.integers(0, 8), min_size=units, max_size=units)), dtype=torch.float64)
        coupling = DataFlowCoupling("it", torch.arange(first, first + units)[None], (), None, 0.0, ())
        found.append(Candidate.ranked(coupling, torch.arange(units), saliency, draw(st.integers(1, 7))))
        first += units
    return found


def candidates_of(model, inputs, seed=0, keep=1):
    """Candidates with random saliencies, and what their model costs."""
    couplings = map_couplings(model, inputs)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for coupling in couplings.couplings:
        if coupling.protected is None:
            saliency = torch.rand(coupling.channels, generator=generator)
            found.append(Candidate.ranked(coupling, torch.arange(coupling.channels), saliency, keep))
    return found, CostModel(couplings.channels), couplings.channels.removed


def price_of(costs, kind):
    return lambda gone, channels: float(getattr(costs.saving(gone, channels), kind))


def naive_steps(candidates, costs, kind, removed):
    """One unit after the other, every price counted anew before each from the costs of two whole models."""
    lost, steps, removed = [0] * len(candidates), [], removed.clone()
    while any(done < candidate.free for done, candidate in zip(lost, candidates, strict=True)):
        ratios = []
        for candidate, done in zip(candidates, lost, strict=True):
            if done < candidate.free:
                after = removed.clone()
                after[candidate.channels(1, done)] = True
                saved = getattr(costs.cost(removed) - costs.cost(after), kind)
                ratios.append(float(candidate.saliency[done]) / max(saved, 1e-12))
            else:
                ratios.append(float("inf"))
        chosen = ratios.index(min(ratios))
        removed[candidates[chosen].channels(1, lost[chosen])] = True
        lost[chosen] += 1
        steps.append(chosen)
    return steps


@SETTINGS
@given(loose_candidates())
def test_the_least_saliency_is_lost_that_any_selection_of_that_many_loses(candidates):
    order = by_saliency(candidates)
    assert len(order) == sum(c.free for c in candidates) and order.total == sum(len(c.units) for c in candidates)
    least = {}
    for counts in itertools.product(*(range(candidate.free + 1) for candidate in candidates)):
        lost = sum(float(c.saliency[:count].sum()) for c, count in zip(candidates, counts, strict=True))
        least[sum(counts)] = min(lost, least.get(sum(counts), lost))
    for length in range(len(order) + 1):
        counts = order.counts(length)
        lost = sum(float(c.saliency[:count].sum()) for c, count in zip(candidates, counts, strict=True))
        assert sum(counts) == length and lost == least[length]


def assert_nested(order, before):
    """A longer cut takes what a shorter one does, and nobody loses what it must keep."""
    previous = set()
    for length in range(len(order) + 1):
        now, counts = order.channels(length).tolist(), order.counts(length)
        assert len(now) == len(set(now)) and previous <= set(now)
        assert order.removed(length, before).nonzero().squeeze(1).tolist() == sorted(now)
        assert all(count <= candidate.free for count, candidate in zip(counts, order.candidates, strict=True))
        if order.round_to is not None:
            left = [len(c.units) - count for c, count in zip(order.candidates, counts, strict=True) if count]
            assert all(number and number % order.round_to == 0 for number in left)
        previous = set(now)
    assert not before.any(), "what is given is not written to"


@SETTINGS
@given(loose_candidates(), st.sampled_from((None, 1, 2, 3, 4, 5)))
def test_longer_cuts_take_what_shorter_ones_do(candidates, round_to):
    before = torch.zeros(sum(len(c.units) for c in candidates) + 1, dtype=torch.bool)
    assert_nested(by_saliency(candidates, round_to), before)


@pytest.mark.parametrize("round_to", [None, 2, 3, 4])
@pytest.mark.parametrize("name", NETS)
def test_longer_cuts_take_what_shorter_ones_do_by_cost_too(name, round_to):
    candidates, costs, removed = candidates_of(*make(name), keep=2)
    assert_nested(by_saliency_per_cost(candidates, price_of(costs, "macs"), costs, removed, round_to), removed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETS)
def test_by_cost_is_the_greedy_choice_at_every_unit(name, kind):
    candidates, costs, removed = candidates_of(*make(name), seed=1)
    order = by_saliency_per_cost(candidates, price_of(costs, kind), costs, removed)
    assert 0 < len(order) <= 100, "every round is one unit"
    assert order.steps.tolist() == naive_steps(candidates, costs, kind, removed)


@SETTINGS
@given(networks(max_blocks=3), st.integers(0, 2**16), st.sampled_from(KINDS))
def test_by_cost_is_the_greedy_choice_on_random_networks(network, seed, kind):
    candidates, costs, removed = candidates_of(*network, seed)
    if 0 < sum(candidate.free for candidate in candidates) < 200:
        order = by_saliency_per_cost(candidates, price_of(costs, kind), costs, removed)
        assert order.steps.tolist() == naive_steps(candidates, costs, kind, removed)


def test_prices_are_found_a_hundred_times_however_many_units_there_are():
    candidates, costs, removed = candidates_of(*make("test_resnet"))
    asked = []

    def price(gone, channels):
        asked.append(int(gone.sum()))
        return price_of(costs, "macs")(gone, channels)

    order = by_saliency_per_cost(candidates, price, costs, removed)
    assert len(order) > 300 and 50 < len(set(asked)) <= 120
    assert len(asked) < 120 * len(candidates)
    assert torch.bincount(order.steps).tolist() == [candidate.free for candidate in candidates]


def test_what_saves_nothing_goes_last():
    candidates, costs, removed = candidates_of(*make("convolutions"))
    order = by_saliency_per_cost(candidates, lambda gone, channels: float(channels.max() in candidates[1].coupling.blocks),
                                 costs, removed)  # fmt: skip
    free = [candidate.free for candidate in candidates]
    assert order.steps.tolist() == [1] * free[1] + [0] * free[0]


def test_where_nothing_may_go_the_order_is_empty():
    candidates, costs, removed = candidates_of(*make("convolutions"), keep=100)
    for order in (by_saliency(candidates), by_saliency_per_cost(candidates, price_of(costs, "macs"), costs, removed)):
        assert len(order) == len(order.channels(0)) == 0 and not order.removed(0, removed).any()


def test_channels_that_are_gone_already_stay_gone():
    candidates, _, removed = candidates_of(*make("convolutions"))
    before = removed.clone()
    before[candidates[0].coupling.blocks[0, 0]] = True
    gone = Order(candidates[1:], torch.zeros(2, dtype=torch.long)).removed(2, before)
    assert gone.sum() == 3 and gone[candidates[0].coupling.blocks[0, 0]]
