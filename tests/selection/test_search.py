"""The shortest length that fits, against looking at every one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dfpc_plugin.selection import shortest


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(-5, 70))
def test_it_is_the_first_that_fits(most, least, threshold):
    expected = next((length for length in range(least, most + 1) if length >= threshold), None)
    assert shortest(lambda length: length >= threshold, most, least) == expected


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_it_asks_about_as_few_as_there_are_binary_digits(most, threshold):
    asked = []
    shortest(lambda length: asked.append(length) or length >= threshold, most)
    assert len(asked) <= most.bit_length() + 1 and len(set(asked)) == len(asked)
    assert all(0 <= length <= most for length in asked)


def test_nothing_is_asked_of_an_empty_range():
    assert shortest(lambda length: 1 / 0, 3, 4) is None
    assert shortest(lambda length: length < 0, 9) is None
    assert shortest(lambda length: True, 0) == 0 and shortest(lambda length: True, 9, 4) == 4
