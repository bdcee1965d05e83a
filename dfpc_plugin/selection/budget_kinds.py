"""Kinds of budgets: how each is counted or measured, and when it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

_ROUNDING = 1e-9


class HasCounts(Protocol):
    """Counts of a model: `Counts`, or the figures of a result."""

    @property
    def channels(self) -> float: ...  # noqa: D102

    @property
    def macs(self) -> float: ...  # noqa: D102

    @property
    def parameters(self) -> float: ...  # noqa: D102


class Counts(NamedTuple):
    """Counts of a model: its channels as a share of all, MACs, and parameters."""

    channels: float
    macs: float
    parameters: float


@dataclass(frozen=True)
class Budget:
    """A number that a user may ask for.

    Attributes:
        summary: What the number is, for errors, help texts and the documentation.
        example: An example value.
        low: Lower limit (exclusive).
        high: Upper limit (exclusive).
    """

    summary: str
    example: float
    low: float
    high: float

    def allows(self, value: float) -> bool:
        """Whether a number lies within the limits."""
        return self.low < value < self.high

    def meets(self, figure: float, asked: float) -> bool:
        """Whether a figure, as `reached` returns it, meets the requested number: at most that."""
        return figure <= asked

    def part(self, value: float, share: float) -> float:
        """The number to ask for after a share (0 to 1) of the steps; unchanged for budgets that cannot be split."""
        return value

    def reached(self, before: Any, after: Any) -> float | None:
        """Return the number that pruning reached, from the `Figures` before and after; None if it was not measured."""
        raise NotImplementedError


@dataclass(frozen=True)
class Counted(Budget):
    """The share of a count that remains.

    Attributes:
        count: Returns the count.
        unit: What is counted.
    """

    count: Callable[[HasCounts], float]
    unit: str

    def kept(self, value: float) -> float:
        """Convert the requested number to the remaining share, or back."""
        return value

    def limit(self, value: float, full: HasCounts) -> float:
        """The largest count that may remain."""
        return self.kept(value) * self.count(full)

    def holds(self, value: float, now: HasCounts, full: HasCounts) -> bool:
        """Whether a model with the counts `now` is within the budget, if the unpruned model has the counts `full`."""
        return self.count(now) <= self.limit(value, full)

    def part(self, value: float, share: float) -> float:
        """The remaining share after a share of the steps: 0.75 after the first of two steps to 0.5."""
        return 1 - (1 - value) * share

    def reached(self, before: HasCounts, after: HasCounts) -> float:
        """The remaining share."""
        return self.kept(self.count(after) / self.count(before))


class Removed(Counted):
    """The share of a count that is removed."""

    def kept(self, value: float) -> float:
        """Convert the removed share to the remaining one, or back."""
        return 1 - value

    def holds(self, value: float, now: HasCounts, full: HasCounts) -> bool:
        """Like `Counted.holds`, up to rounding errors."""
        return self.count(now) <= self.limit(value, full) + _ROUNDING * self.count(full)

    def meets(self, figure: float, asked: float) -> bool:
        """Whether at least the requested share is removed, up to rounding errors."""
        return figure >= asked - _ROUNDING

    def part(self, value: float, share: float) -> float:
        """The removed share after a share of the steps."""
        return value * share


@dataclass(frozen=True)
class Timed(Budget):
    """A number about the latency of a forward.

    Attributes:
        seconds: The allowed seconds, from the number and the unpruned model's seconds.
        surplus: The speed-up over the requested latency, from the number, the measured speed-up and the measured seconds.
        measure: The number itself, from the measured speed-up and seconds.
        at_least: Whether a larger number is faster.
    """

    seconds: Callable[[float, float], float]
    surplus: Callable[[float, float, float], float]
    measure: Callable[[float, float], float]
    at_least: bool = False

    def meets(self, figure: float, asked: float) -> bool:
        """Whether a speed-up is at least, or a latency at most, the requested number."""
        return figure >= asked if self.at_least else figure <= asked

    def reached(self, before: Any, after: Any) -> float | None:
        """The measured number, or None."""
        if before.latency is None or after.latency is None:
            return None
        return self.measure(after.latency.speedup_over(before.latency), after.latency.median)


class Scored(Budget):
    """The largest allowed drop of the user's own score."""

    def allows(self, value: float) -> bool:
        """Whether a number lies within the limits; no drop at all is allowed, too."""
        return self.low <= value < self.high

    def reached(self, before: Any, after: Any) -> float | None:
        """The score before minus the score after."""
        return None if before.score is None or after.score is None else float(before.score - after.score)
