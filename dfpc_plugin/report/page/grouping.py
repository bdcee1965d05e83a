"""Long lists of layers in groups by where they are in the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Group", "grouped"]

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
