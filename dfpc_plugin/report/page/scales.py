"""Scales: from numbers to places, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Linear", "Logarithmic"]

_WANTED, _SLACK, _TINY = 4, 1e-9, 1e-200
_FACTORS = ((1, 0), (2, 0), (2.5, 1), (5, 0), (10, -1), (20, -1))
"""What steps are made of, and how many more decimals each takes; beyond 10 only where rounding wants it."""


@dataclass(frozen=True)
class Linear:
    """An even scale.

    Attributes:
        low: What is at 0.
        high: What is at 1.
        ticks: Round numbers between.
        digits: Decimals that ticks need.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int

    @classmethod
    def over(cls, values: Iterable[float], room: float = 0.0) -> Linear:
        """Make a scale from tick to tick around `values`, of which there is at least one, and some `room` below them."""
        low, high = _apart(list(values))
        low -= room * (high - low)
        step, digits = _step(low, high)
        first, last = math.floor(low / step + _SLACK), math.ceil(high / step - _SLACK)
        return cls(first * step, last * step, tuple(index * step for index in range(first, last + 1)), digits)

    @classmethod
    def within(cls, values: Iterable[float], margin: float = 0.0, whole: bool = False) -> Linear:
        """Make a scale over `values` and a share `margin` of it more on both sides; with `whole`, ticks are at integers."""
        low, high = _apart(list(values))
        low, high = low - margin * (high - low), high + margin * (high - low)
        step, digits = _step(low, high)
        if whole:
            step, digits = max(1.0, float(math.ceil(step))), 0
        first, last = math.ceil(low / step - _SLACK), math.floor(high / step + _SLACK)
        return cls(low, high, tuple(index * step for index in range(first, last + 1)), digits)

    def at(self, value: float) -> float:
        """Place of `value`, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def _apart(values: list[float]) -> tuple[float, float]:
    """Lowest and highest of some values, or what is around them where they are all the same."""
    low, high = min(values), max(values)
    if high - low > max(_TINY, _SLACK * max(abs(low), abs(high))):
        return low, high
    room = 0.1 * abs(low) or 1.0
    return low - room, high + room


def _step(low: float, high: float) -> tuple[float, int]:
    """A round step of which four or so lie between, and the decimals that it needs."""
    rough = (high - low) / _WANTED
    exponent = math.floor(math.log10(rough))
    factor, more = next((factor, more) for factor, more in _FACTORS if factor * 10.0**exponent >= rough)
    return factor * 10.0**exponent, max(0, more - exponent)


@dataclass(frozen=True)
class Logarithmic:
    """A scale in powers of ten: the exponents of what is at 0 and at 1."""

    low: int
    high: int

    @classmethod
    def over(cls, values: Iterable[float]) -> Logarithmic | None:
        """Make a scale from power to power around the positive ones of `values`; None where there is none."""
        known = [value for value in values if value > 0]
        if not known:
            return None
        low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
        return cls(low, max(high, low + 1))

    def at(self, value: float) -> float:
        """Place of a positive `value`, 0 to 1."""
        return min(1.0, max(0.0, (math.log10(value) - self.low) / (self.high - self.low)))

    def exponents(self, most: int) -> list[int]:
        """Exponents to label, evenly spaced and at most so many, from the lowest."""
        step = math.ceil((self.high - self.low) / (most - 1))
        return list(range(self.low, self.high + 1, step))
