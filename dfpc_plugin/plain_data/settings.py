"""`Checked`, dataclasses that check their fields against their type hints; and limits beyond types, for `Annotated`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data.checking import PlainDataError, checked, fields_of, to_plain


@dataclass(frozen=True)
class Limit:
    """A condition on a value.

    Attributes:
        wanted: The condition in words, for errors.
        holds: Whether a value of the right type fulfils it.
        hint: Advice at the end of an error.
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
    """Finite numbers from `least` to `most`, above `above` and below `below`; `hint` is advice at the end of an error."""
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
    """Strings of at most `longest` characters that fully match a regular expression."""
    compiled = re.compile(pattern)
    return Limit(wanted, lambda value: len(value) <= longest and compiled.fullmatch(value) is not None)


def at_most(entries: int) -> Limit:
    """Lists and objects of at most `entries` entries, and strings of at most as many characters."""
    return Limit(f"at most {entries} long", lambda value: len(value) <= entries)


def one_of(names: Collection[str]) -> Limit:
    """Strings in a collection, which may grow later."""
    return Limit(f"one of {', '.join(map(repr, names))}", lambda value: value in names)


Count = Annotated[int, within(1)]
"""A whole number of 1 or more."""
Natural = Annotated[int, within(0)]
"""A whole number of 0 or more."""
Seed = Annotated[int, within(0, 2**63 - 1)]
"""A seed of a random generator."""
NotNegative = Annotated[float, within(0)]
"""A number of 0 or more."""
Positive = Annotated[float, within(above=0)]
"""A number above 0."""
Share = Annotated[float, within(0, 1)]
"""A number from 0 to 1."""


@dataclass(frozen=True)
class Checked:
    """A base for frozen dataclasses of settings: `class Size(Checked, error=SizeError)`.

    Every field is checked against its type hint and limits; lists become tuples, and strings become paths. A subclass
    can check several fields together in its own `__post_init__`, after calling this one.
    """

    _error: ClassVar[type[DFPCError]] = DFPCError

    def __init_subclass__(cls, error: type[DFPCError] | None = None) -> None:
        """Set the class of errors; by default that of the base class."""
        super().__init_subclass__()
        if error is not None:
            cls._error = error

    def __post_init__(self) -> None:
        """Check every field; the class's error says what is expected and what is there for each invalid one."""
        own: Any = type(self)
        problems: list[str] = []
        for name, kind in fields_of(own).items():
            try:
                object.__setattr__(self, name, checked(kind, getattr(self, name), name))
            except PlainDataError as error:
                problems.append(error.sentence)
        if problems:
            raise self._error(" ".join(problems))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as dicts, lists, numbers and strings by name."""
        return dict(to_plain(self))
