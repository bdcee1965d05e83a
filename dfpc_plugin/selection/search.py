"""How far to follow an order."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["shortest"]


def shortest(fits: Callable[[int], bool], most: int, least: int = 0) -> int | None:
    """Return the smallest number from `least` to `most` that fits, if every larger one fits too; None if none does.

    Args:
        fits: Tells whether a number does; it is asked about as few as there are binary digits.
        most: The largest number.
        least: The smallest number.
    """
    if least > most or not fits(most):
        return None
    while least < most:
        middle = (least + most) // 2
        if fits(middle):
            most = middle
        else:
            least = middle + 1
    return least
