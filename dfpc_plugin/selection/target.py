"""What the user wants of a pruned model: `Target(macs=0.5)`, or "macs=0.5" in words."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields, replace

from dfpc_plugin.errors import DFPCError

__all__ = ["Target", "TargetError", "meets", "stated"]


class TargetError(DFPCError, ValueError):
    """A target that makes no sense, or that a model cannot be pruned to."""


@dataclass(frozen=True)
class Target:
    """Budgets that hold together; those that are None do not matter.

    Attributes:
        ratio: Share of the channels to remove: 0.3 removes 30 % of those of all couplings that can be pruned, what limits
            keep included.
        macs: Share of the multiply-accumulates to keep: 0.5 halves them.
        params: Share of the parameters to keep.
        speedup: How many times faster than before, measured: 1.5.
        latency_ms: Milliseconds of one forward of the example inputs, measured.
        max_drop: By how much `evaluate` may fall, in its own units. Alone, as much goes as that allows; with other
            budgets, these are reached and this must hold as well.
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    speedup: float | None = None
    latency_ms: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Raise on values that cannot be meant.

        Raises:
            TargetError: Says which.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            raise TargetError(f"A target needs at least one of {_names()}; for example macs=0.5.")
        for name, value in given.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise TargetError(f"{name}={value!r} is no number; for example {_EXAMPLES[name]}.")
            low, high, meaning = _RANGES[name]
            if not low < value < high and not (name == "max_drop" and value == 0):
                raise TargetError(f"{name}={value:g} is no {meaning}; for example {_EXAMPLES[name]}.")

    @classmethod
    def parse(cls, text: str | Target) -> Target:
        """Read what a user writes: budgets with their values, joined by commas.

        Args:
            text: Such as "macs=0.5" or "speedup=1.5, max_drop=2"; a target is returned as it is.

        Raises:
            TargetError: There is no budget of that name (the message names the nearest), or a value is no number.
        """
        if isinstance(text, Target):
            return text
        values: dict[str, float] = {}
        for part in str(text).split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in _RANGES:
                near = difflib.get_close_matches(name, _RANGES, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {_names()}."
                raise TargetError(f"'{part.strip()}' names no budget; {hint}")
            if name in values:
                raise TargetError(f"The target '{text}' names {name} twice; give it once.")
            try:
                values[name] = float(value)
            except ValueError:
                raise TargetError(f"'{part.strip()}' gives no number; for example {_EXAMPLES[name]}.") from None
        return cls(**values)

    def part(self, share: float) -> Target:
        """The target of a part of the way: of two steps, the first is to leave 0.75 where 0.5 is to be left in the end."""
        ratio = None if self.ratio is None else self.ratio * share
        macs, params = (None if value is None else 1 - (1 - value) * share for value in (self.macs, self.params))
        return replace(self, ratio=ratio, macs=macs, params=params)

    @property
    def measured(self) -> bool:
        """Whether it is about time."""
        return self.speedup is not None or self.latency_ms is not None

    @property
    def counted(self) -> bool:
        """Whether it is about channels, multiply-accumulates or parameters."""
        return any(value is not None for value in (self.ratio, self.macs, self.params))

    def __str__(self) -> str:
        """As `parse` reads it."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ", ".join(f"{name}={_spelled(value)}" for name, value in given if value is not None)


def meets(budget: str, figure: float, asked: float) -> bool:
    """Whether a figure keeps to a budget: at least what is asked for of a ratio and a speed-up, at most of the others."""
    return figure >= asked if budget in ("ratio", "speedup") else figure <= asked


def stated(budget: str, figure: float, asked: float) -> str:
    """A figure in four digits, or in more where four would say otherwise whether the budget is kept."""
    texts = (f"{figure:.{digits}g}" for digits in range(4, 17))
    met = meets(budget, figure, asked)
    return next((text for text in texts if meets(budget, float(text), asked) == met), repr(figure))


_RANGES = {
    "ratio": (0.0, 1.0, "share of the channels to remove, between 0 and 1"),
    "macs": (0.0, 1.0, "share of the multiply-accumulates to keep, between 0 and 1"),
    "params": (0.0, 1.0, "share of the parameters to keep, between 0 and 1"),
    "speedup": (1.0, math.inf, "speed-up, above 1"),
    "latency_ms": (0.0, math.inf, "number of milliseconds, above 0"),
    "max_drop": (0.0, math.inf, "loss to allow, 0 or more"),
}
_EXAMPLES = {
    "ratio": "ratio=0.3",
    "macs": "macs=0.5",
    "params": "params=0.5",
    "speedup": "speedup=1.5",
    "latency_ms": "latency_ms=4.2",
    "max_drop": "max_drop=2",
}


def _spelled(value: float) -> str:
    """A number in as few digits as tell it from every other."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _names() -> str:
    return ", ".join(_RANGES)
