"""Compare and restore the contents of plain containers, by identity."""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from typing import Any

CONTAINERS = (dict, list, set, deque)
PLAIN = frozenset((bool, int, float, str, tuple, type(None)))
"""Types of attributes other than containers and tensors: looking a type up is faster than `isinstance`."""
NO_TENSORS = PLAIN | {dict, OrderedDict, list, set}
"""Types of most attributes of modules."""


def same_contents(container: Any, contents: Any) -> bool:
    """Compare by identity: tensors have no truth value, and an object may have been replaced by an equal one."""
    if len(container) != len(contents):
        return False
    if isinstance(container, dict):
        same_values = all(map(operator.is_, container.values(), contents.values()))
        return same_values and all(map(operator.is_, container, contents))
    if isinstance(container, set):
        return {id(item) for item in container} == {id(item) for item in contents}
    return all(map(operator.is_, container, contents))


def refill(container: Any, contents: Any) -> None:
    """Replace the contents of `container`, which stays the same object."""
    container.clear()
    container.extend(contents) if isinstance(container, list | deque) else container.update(contents)
