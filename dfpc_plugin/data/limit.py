"""Choose fewer images, evenly over the classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dfpc_plugin.data.errors import DataError
from dfpc_plugin.plain_data import Count, checked


def evenly(labels: Sequence[int], count: int) -> list[int]:
    """Choose `count` positions, in turns over the classes; when a class runs out, the others go on.

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
