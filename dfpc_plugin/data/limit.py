"""Fewer images, as many of every class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dfpc_plugin.data.errors import DataError
from dfpc_plugin.plain_data import Count, checked

__all__ = ["evenly"]


def evenly(labels: Sequence[int], count: int) -> list[int]:
    """Choose `count` positions, class by class in turns; a class that runs out leaves its turns to the others.

    Returns:
        The positions, in ascending order; all of them if there are no more than `count`.

    Raises:
        DataError: `count` is not positive.
    """
    checked(Count, count, "limit", DataError)
    seen: defaultdict[int, int] = defaultdict(int)
    turns = []
    for position, label in enumerate(labels):
        turns.append((seen[label], label, position))
        seen[label] += 1
    return sorted(position for _, _, position in sorted(turns)[:count])
