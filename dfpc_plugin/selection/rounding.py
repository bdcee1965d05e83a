"""Rounding of widths to multiples of a number, which hardware is fast with."""

from __future__ import annotations

import math


def rounded(units: int, cut: int, keep: int, multiple: int | None) -> int:
    """Return how many units to prune so that a multiple remains: more than `cut`, or fewer if too few would remain.

    At least `keep` units remain. Returns 0 if no multiple is possible.

    Args:
        units: Number of units.
        cut: Number of units to prune before rounding.
        keep: Minimum number of remaining units.
        multiple: Round remaining units to a multiple of this; None for no rounding.
    """
    if not multiple or not cut:
        return cut
    left = max((units - cut) // multiple, math.ceil(keep / multiple)) * multiple
    return max(0, units - left)
