"""Binary search for the length of an order."""

from __future__ import annotations

from collections.abc import Callable


def shortest(fits: Callable[[int], bool], most: int, least: int = 0) -> int | None:
    """Return the smallest number from `least` to `most` that fits, or None; all larger numbers must fit, too."""
    if least > most or not fits(most):
        return None
    while least < most:
        middle = (least + most) // 2
        if fits(middle):
            most = middle
        else:
            least = middle + 1
    return least
