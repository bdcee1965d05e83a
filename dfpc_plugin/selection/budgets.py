"""What a budget is about: how it is written, counted or measured, and when it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

__all__ = ["Budget", "Counted", "Counts", "Removed", "Scored", "Timed"]

_ROUNDING = 1e-9


class HasCounts(Protocol):
    """What a model costs: `Counts`, or the figures of a result."""

    @property
    def channels(self) -> float: ...

    @property
    def macs(self) -> float: ...

    @property
    def parameters(self) -> float: ...


class Counts(NamedTuple):
    """What a model costs: its channels as a share of all, MACs, and entries of its parameters."""

    channels: float
    macs: float
    parameters: float


@dataclass(frozen=True)
class Budget:
    """A number that a user may ask for.

    Attributes:
        summary: What the number is, for errors, help texts and the documentation.
        example: A number that one might ask for.
        low: It is above this.
        high: It is below this.
    """

    summary: str
    example: float
    low: float
    high: float

    def allows(self, value: float) -> bool:
        """Whether a number can be meant."""
        return self.low < value < self.high

    def meets(self, figure: float, asked: float) -> bool:
        """Whether a figure, as `reached` returns it, is what was asked for: at most that."""
        return figure <= asked

    def part(self, value: float, share: float) -> float:
        """What to ask for after a share of the way, 0 to 1; the same where that cannot be told."""
        return value

    def reached(self, before: Any, after: Any) -> float | None:
        """The same number of a model that was pruned, from the `Figures` before and after; None if it was not measured."""
        raise NotImplementedError


@dataclass(frozen=True)
class Counted(Budget):
    """The share of a count that stays.

    Attributes:
        count: Counts.
        unit: What is counted.
    """

    count: Callable[[HasCounts], float]
    unit: str

    def kept(self, value: float) -> float:
        """From what is asked for to the share that stays, and back."""
        return value

    def limit(self, value: float, full: HasCounts) -> float:
        """The most that may be left."""
        return self.kept(value) * self.count(full)

    def holds(self, value: float, now: HasCounts, full: HasCounts) -> bool:
        """Whether a model that costs `now` is within the budget; one that costs `full` has lost nothing."""
        return self.count(now) <= self.limit(value, full)

    def part(self, value: float, share: float) -> float:
        """Of two steps, the first is to leave 0.75 where 0.5 is to be left in the end."""
        return 1 - (1 - value) * share

    def reached(self, before: HasCounts, after: HasCounts) -> float:
        """The share that is left."""
        return self.kept(self.count(after) / self.count(before))


class Removed(Counted):
    """The share of a count that goes."""

    def kept(self, value: float) -> float:
        """The rest."""
        return 1 - value

    def holds(self, value: float, now: HasCounts, full: HasCounts) -> bool:
        """As of what stays, but for rounding."""
        return self.count(now) <= self.limit(value, full) + _ROUNDING * self.count(full)

    def meets(self, figure: float, asked: float) -> bool:
        """At least what was asked for, but for rounding."""
        return figure >= asked - _ROUNDING

    def part(self, value: float, share: float) -> float:
        """The same share of what goes."""
        return value * share


@dataclass(frozen=True)
class Timed(Budget):
    """A number about the latency of a forward.

    Attributes:
        seconds: From the number, and the seconds of the model as it was, to the seconds that are allowed.
        surplus: How many times faster than asked for a model is, from the number, the measured speed-up and its seconds.
        measure: The number itself, from the measured speed-up and the seconds.
        at_least: Whether a larger number is faster.
    """

    seconds: Callable[[float, float], float]
    surplus: Callable[[float, float, float], float]
    measure: Callable[[float, float], float]
    at_least: bool = False

    def meets(self, figure: float, asked: float) -> bool:
        """At least a speed-up, at most a latency."""
        return figure >= asked if self.at_least else figure <= asked

    def reached(self, before: Any, after: Any) -> float | None:
        """As it was measured, side by side."""
        if before.latency is None or after.latency is None:
            return None
        return self.measure(after.latency.speedup_over(before.latency), after.latency.median)


class Scored(Budget):
    """By how much the user's own score may fall."""

    def allows(self, value: float) -> bool:
        """Nothing at all may be lost, too."""
        return self.low <= value < self.high

    def reached(self, before: Any, after: Any) -> float | None:
        """The score before without that after."""
        return None if before.score is None or after.score is None else float(before.score - after.score)
