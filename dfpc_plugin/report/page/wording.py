"""Numbers, and long lists of layers, as a reader wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dfpc_plugin import display

THIN, _MINUS = "\N{NARROW NO-BREAK SPACE}", "\N{MINUS SIGN}"
_UNITS = ("", "k", "M", "G", "T", "P")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def significant(value: float, digits: int = 3) -> str:
    """Write `value` with so many significant digits, without exponents where they can be done without."""
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # rounded first: 0.9999 may have gained a digit before the point
    exponent = math.floor(math.log10(abs(value)))
    if not -5 < exponent < 9:
        return f"{value:.{digits - 1}e}".replace("-", _MINUS)
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace(",", THIN).replace("-", _MINUS)


def _scaled(value: float, least: float, units: Sequence[str]) -> tuple[float, str]:
    """A value in the first of some units, each a thousand times the one before, in which it is below `least`."""
    power = 0
    while abs(value) >= least and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return value, units[power]


def short(value: float) -> str:
    """Write a count with three digits and a unit: 125 M."""
    value, unit = _scaled(value, 999.5, _UNITS)
    if not unit:
        return significant(value) if value % 1 else f"{value:.0f}"
    return f"{significant(value)}{THIN}{unit}"


def short_tick(value: float) -> str:
    """Write a round count with a unit and no more digits than it takes: 40 M."""
    value, unit = _scaled(value, 1000, _UNITS)
    return f"{value:g}{THIN}{unit}".rstrip(THIN)


def count(value: float) -> str:
    """Write a count in full, in groups of three digits."""
    return f"{value:,.0f}".replace(",", THIN).replace("-", _MINUS)


def file_size(value: float) -> str:
    """Write a number of bytes with three digits and a unit: 44.7 MB."""
    value, unit = _scaled(value, 999.5, ("bytes", "kB", "MB", "GB"))
    return f"{significant(value)}{THIN}{unit}"


def percent(share: float) -> str:
    """Write a share, 0 to 1, as a percentage."""
    return display.percent(share).replace("-", _MINUS)


def signed(value: float) -> str:
    """Write a difference with its sign."""
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else _MINUS}{text}"


def milliseconds(value: float, digits: int = 3) -> str:
    """Write milliseconds with their unit."""
    return f"{significant(value, digits)}{THIN}ms"


def seconds(value: float) -> str:
    """Write a duration: seconds, minutes or hours."""
    if value < 59.95:
        return f"{value:.1f}{THIN}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60}{THIN}s"
    return f"{whole // 3600}{THIN}h {whole % 3600 // 60}{THIN}min"


def shown(value: float | None, form: Callable[[float], str]) -> str:
    """Write a value in a form; nothing for one that is not known."""
    return "" if value is None else form(value)


def power_of_ten(exponent: int) -> str:
    """Write a power of ten: 10⁻³."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


Row = TypeVar("Row")

_FLAT, _LARGE = 24, 100
"""Up to how many rows a list stays in one piece, and beyond how many a group is divided once more."""


@dataclass(frozen=True)
class Group(Generic[Row]):
    """Neighbours in the model, by the module that holds them; '' for a list that is short enough to need no groups."""

    name: str
    rows: tuple[Row, ...]


def grouped(rows: Iterable[tuple[str, Row]]) -> tuple[Group[Row], ...]:
    """Group rows, each with the path of its layer, by the modules that hold these; order stays."""
    known = list(rows)
    if len(known) <= _FLAT:
        return (Group("", tuple(row for _, row in known)),) if known else ()
    groups: list[tuple[str, list[tuple[str, Row]]]] = []
    for name, members in _by_prefix(known, 1):
        groups += _by_prefix(members, 2) if len(members) > _LARGE else [(name, members)]
    return tuple(Group(name, tuple(row for _, row in members)) for name, members in _joined(groups))


def _by_prefix(rows: Sequence[tuple[str, Row]], parts: int) -> list[tuple[str, list[tuple[str, Row]]]]:
    """Group by the first parts of the path, a group's place being that of its first row."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for path, row in rows:
        found.setdefault(".".join(path.split(".")[:parts]), []).append((path, row))
    return list(found.items())


def _joined(groups: list[tuple[str, list[tuple[str, Row]]]]) -> list[tuple[str, list[tuple[str, Row]]]]:
    """Make one group of neighbours that have but one row each."""
    result: list[tuple[str, list[tuple[str, Row]]]] = []
    single = False
    for name, members in groups:
        if len(members) == 1 and single:
            earlier, held = result[-1]
            result[-1] = (f"{earlier.partition(' to ')[0]} to {name}", held + members)
        else:
            result.append((name, members))
        single = len(members) == 1
    return result
