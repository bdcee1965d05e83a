"""Widths that are multiples of a number, as hardware likes them."""

from __future__ import annotations

import math

__all__ = ["rounded"]


def rounded(units: int, cut: int, keep: int, multiple: int | None) -> int:
    """Cut more units so that a multiple stays, or fewer where too few would.

    Never cuts below `keep`, and where no multiple that large can stay, cuts nothing.

    Args:
        units: How many there are.
        cut: How many were to be pruned.
        keep: How many must stay.
        multiple: What the number of those that stay is to be a multiple of; None for no such wish.
    """
    if not multiple or not cut:
        return cut
    left = max((units - cut) // multiple, math.ceil(keep / multiple)) * multiple
    return max(0, units - left)
