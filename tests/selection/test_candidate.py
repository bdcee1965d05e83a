"""What may go from a coupling, and how much must stay."""

import itertools
from fractions import Fraction

import pytest
import torch

from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.selection import Candidate, keep_at_least


def coupling(units, blocks=1, whole_heads=False):
    numbers = torch.arange(1, 1 + units * blocks).view(blocks, units)
    return DataFlowCoupling("it", numbers, (), None, 0.0, (), whole_heads)


def test_units_are_ranked_from_the_lowest_saliency_and_equal_ones_in_their_order():
    units = torch.tensor([7, 2, 5, 0, 3])
    candidate = Candidate.ranked(coupling(9), units, torch.tensor([3.0, 1, 2, 1, 2]), keep=2)
    assert candidate.units.tolist() == [2, 0, 5, 3, 7]
    assert candidate.saliency.tolist() == [1, 1, 2, 2, 3] and candidate.saliency.dtype == torch.float64
    assert candidate.free == 3


def test_saliency_needs_no_gradients_and_any_precision_will_do():
    saliency = torch.tensor([2.0, 1], dtype=torch.float16, requires_grad=True)
    candidate = Candidate.ranked(coupling(2), torch.arange(2), saliency, keep=1)
    assert not candidate.saliency.requires_grad and candidate.saliency.tolist() == [1, 2]


def test_the_lowest_units_go_with_a_channel_of_every_block():
    candidate = Candidate.ranked(coupling(4, blocks=3), torch.arange(4), torch.tensor([4.0, 1, 3, 2]), keep=1)
    assert sorted(candidate.channels(2).tolist()) == [2, 4, 6, 8, 10, 12]
    assert sorted(candidate.channels(1, start=2).tolist()) == [3, 7, 11]
    assert len(candidate.channels(0)) == 0


@pytest.mark.parametrize(("left", "keep", "free"), [(5, 2, 3), (2, 2, 0), (1, 2, 0)])
def test_what_must_stay_is_not_free(left, keep, free):
    candidate = Candidate.ranked(coupling(9), torch.arange(left), torch.rand(left), keep)
    assert candidate.free == free


@pytest.mark.parametrize("blocks", [1, 2, 3, 8])
@pytest.mark.parametrize("whole_heads", [False, True])
def test_the_least_that_stays_keeps_every_limit(blocks, whole_heads):
    ratios = [Fraction(n, 10) for n in range(11)]
    for units, ratio, least in itertools.product(range(1, 13), ratios, (1, 2, 3, 5, 40)):

        def allowed(kept, units=units, ratio=ratio, least=least):
            wide_enough = whole_heads or kept * blocks >= least or kept == units
            return kept >= 1 and wide_enough and Fraction(units - kept, units) <= ratio

        expected = next(kept for kept in range(units + 1) if allowed(kept))
        assert keep_at_least(coupling(units, blocks, whole_heads), float(ratio), least) == expected


def test_two_channels_stay_by_default():
    assert keep_at_least(coupling(9), 1.0) == 2
    assert keep_at_least(coupling(9, blocks=2), 1.0) == 1
