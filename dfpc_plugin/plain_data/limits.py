"""Limits of values beyond their types, for `Annotated`: `Annotated[float, within(0, 1)]`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any

__all__ = [
    "Count",
    "Limit",
    "Natural",
    "NotNegative",
    "Positive",
    "Seed",
    "Share",
    "at_most",
    "matching",
    "one_of",
    "within",
]


@dataclass(frozen=True)
class Limit:
    """What a value must be.

    Attributes:
        wanted: What an error says that the value must be.
        holds: Whether a value, which is of the right type, is that.
        hint: What an error says in the end: what to give instead.
    """

    wanted: str
    holds: Callable[[Any], bool]
    hint: str = ""


def within(
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> Limit:
    """Finite numbers of a range.

    Args:
        least: The smallest allowed number.
        most: The largest allowed number.
        above: All allowed numbers are larger.
        below: All allowed numbers are smaller.
        hint: What to give instead.
    """
    if least is not None and most is not None:
        words = [f"{least} to {most}"]
    else:
        bounds = {"above {}": above, "{} or more": least, "below {}": below, "at most {}": most}
        words = [text.format(bound) for text, bound in bounds.items() if bound is not None]

    def holds(value: float) -> bool:
        high_enough = (least is None or value >= least) and (above is None or value > above)
        return high_enough and (most is None or value <= most) and (below is None or value < below) and value < math.inf

    return Limit(" and ".join(words), holds, hint)


def matching(pattern: str, wanted: str, longest: int = 1000) -> Limit:
    """Texts of at most `longest` characters that a regular expression matches as a whole."""
    compiled = re.compile(pattern)
    return Limit(wanted, lambda value: len(value) <= longest and compiled.fullmatch(value) is not None)


def at_most(entries: int) -> Limit:
    """Lists and objects of at most so many entries, and texts of at most so many characters."""
    return Limit(f"at most {entries} long", lambda value: len(value) <= entries)


def one_of(names: Collection[str]) -> Limit:
    """Texts that a collection has, which may grow."""
    return Limit(f"one of {', '.join(map(repr, names))}", lambda value: value in names)


Count = Annotated[int, within(1)]
"""A whole number of 1 or more."""
Natural = Annotated[int, within(0)]
"""A whole number of 0 or more."""
Seed = Annotated[int, within(0, 2**63 - 1)]
"""What random generators take."""
NotNegative = Annotated[float, within(0)]
"""A number of 0 or more."""
Positive = Annotated[float, within(above=0)]
"""A number above 0."""
Share = Annotated[float, within(0, 1)]
"""A number from 0 to 1."""
