"""Equal cost: every criterion gets as close to the asked MACs as one channel allows, and never above."""

import copy

import pytest
import torch

from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.demo.measure import count_macs
from dfpc_plugin.demo.network import build_network, channel_widths, example_input, load_network
from dfpc_plugin.demo.search import STEPS, BudgetError, CutSearch


def _search(name, **options):
    return CutSearch(load_network(), example_input(), CRITERIA[name].build(), ("fc",), **options)


@pytest.mark.parametrize("name", ["dfpc", "magnitude", "random"])
def test_budgets_are_reached_and_kept(name):
    search, full = _search(name), count_macs(load_network(), example_input())
    for budget in (0.8, 0.5):
        cut = search.within(budget)
        assert budget - 0.03 < cut.macs / full <= budget
        assert cut.macs == count_macs(cut.model, example_input())
        assert cut.model(example_input(2)).shape == (2, 10)


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_prunes(name):
    cut = _search(name).within(0.9)
    assert 0 < cut.ratio < 1
    assert sum(channel_widths(cut.model).values()) < sum(channel_widths(build_network()).values())


def test_layers_lose_the_same_share_without_global_ranking():
    widths = channel_widths(_search("magnitude", global_ranking=False).within(0.6).model)
    shares = [widths[name] / full for name, full in channel_widths(build_network()).items()]
    assert max(shares) - min(shares) < 0.1


def test_the_model_and_the_generator_are_left_alone():
    model = load_network()
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    CutSearch(model, example_input(), CRITERIA["random"].build(), ("fc",)).within(0.9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(generator, torch.get_rng_state())


def test_one_seed_gives_one_cut():
    first, again, other = (channel_widths(_search("random", seed=seed).within(0.7).model) for seed in (1, 1, 2))
    assert first == again != other


def _fake(shares):
    """Return a search whose cut at step k of 512 has `shares(k)` of the MACs, and the list of steps it tries."""
    search, tried = _search("magnitude"), []
    cut_at_zero = search.within(1.0)

    def cut(ratio):
        step = round(ratio * STEPS)
        tried.append(step)
        return type(cut_at_zero)(ratio, cut_at_zero.model, int(shares(step) * cut_at_zero.macs))

    search._cut = cut
    return search, tried


def test_a_cost_that_grows_again_with_the_ratio_does_not_mislead():
    search, tried = _fake(lambda step: 1 - step / STEPS if step < 200 else 0.95)
    cut = search.within(0.7)
    assert cut.ratio * STEPS == 154  # the first of 512 steps at or below 70 %
    assert len(tried) == len(set(tried))


def test_an_unreachable_budget_says_what_is_the_least():
    search, _ = _fake(lambda step: 0.6 if step == 64 else 0.8)
    with pytest.raises(BudgetError, match=r"40% of its MACs with GroupMagnitudeImportance; the least reached is 60%"):
        search.within(0.4)
