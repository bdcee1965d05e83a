"""Rounding against a search through every number of units that could stay."""

import itertools

import pytest

from dfpc_plugin.selection import rounded

SIZES = range(1, 13)


def most_that_may_stay(units, cut, keep, multiple):
    """The largest multiple that asks for at least this cut; else the smallest that leaves enough; else all."""
    fine = [left for left in range(units) if left % multiple == 0 and left >= keep]
    within = [left for left in fine if left <= units - cut]
    return max(within) if within else min(fine, default=units)


@pytest.mark.parametrize("multiple", range(1, 15))
def test_what_stays_is_the_nearest_multiple_that_may(multiple):
    for units in SIZES:
        for keep, cut in itertools.product(range(1, units + 1), range(1, units + 1)):
            if cut <= units - keep:
                left = units - rounded(units, cut, keep, multiple)
                assert left == most_that_may_stay(units, cut, keep, multiple), (units, cut, keep, multiple)


@pytest.mark.parametrize("multiple", range(1, 15))
def test_a_multiple_stays_or_nothing_goes_and_never_too_few_stay(multiple):
    for units in SIZES:
        for keep in range(1, units + 1):
            left = [units - rounded(units, cut, keep, multiple) for cut in range(units - keep + 1)]
            assert all(n == units or (n % multiple == 0 and keep <= n < units) for n in left)
            assert left == sorted(left, reverse=True), "a larger cut leaves no more"
            assert left[0] == units, "nothing asked for, nothing cut"


@pytest.mark.parametrize("multiple", (None, 0))
def test_without_a_multiple_a_cut_is_as_asked_for(multiple):
    assert [rounded(9, cut, 2, multiple) for cut in range(8)] == list(range(8))
