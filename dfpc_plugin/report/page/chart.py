"""Scales with ticks at round numbers, and line charts: where everything goes, for a template to draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_WANTED, _SLACK, _TINY = 4, 1e-9, 1e-200
_FACTORS = ((1, 0), (2, 0), (2.5, 1), (5, 0), (10, -1), (20, -1))
"""What steps are made of, and how many more decimals each takes; beyond 10 only where rounding wants it."""


@dataclass(frozen=True)
class Linear:
    """An even scale.

    Attributes:
        low: What is at 0.
        high: What is at 1.
        ticks: Round numbers between.
        digits: Decimals that ticks need.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int

    @classmethod
    def over(cls, values: Iterable[float], room: float = 0.0) -> Linear:
        """Make a scale from tick to tick around `values`, of which there is at least one, and some `room` below them."""
        low, high = _apart(list(values))
        low -= room * (high - low)
        step, digits = _step(low, high)
        first, last = math.floor(low / step + _SLACK), math.ceil(high / step - _SLACK)
        return cls(first * step, last * step, tuple(index * step for index in range(first, last + 1)), digits)

    @classmethod
    def within(cls, values: Iterable[float], margin: float = 0.0, whole: bool = False) -> Linear:
        """Make a scale over `values` and a share `margin` of it more on both sides; with `whole`, ticks are at integers."""
        low, high = _apart(list(values))
        low, high = low - margin * (high - low), high + margin * (high - low)
        step, digits = _step(low, high)
        if whole:
            step, digits = max(1.0, float(math.ceil(step))), 0
        first, last = math.ceil(low / step - _SLACK), math.floor(high / step + _SLACK)
        return cls(low, high, tuple(index * step for index in range(first, last + 1)), digits)

    def at(self, value: float) -> float:
        """Place of `value`, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def _apart(values: list[float]) -> tuple[float, float]:
    """Lowest and highest of some values, or what is around them where they are all the same."""
    low, high = min(values), max(values)
    if high - low > max(_TINY, _SLACK * max(abs(low), abs(high))):
        return low, high
    room = 0.1 * abs(low) or 1.0
    return low - room, high + room


def _step(low: float, high: float) -> tuple[float, int]:
    """A round step of which four or so lie between, and the decimals that it needs."""
    rough = (high - low) / _WANTED
    exponent = math.floor(math.log10(rough))
    factor, more = next((factor, more) for factor, more in _FACTORS if factor * 10.0**exponent >= rough)
    return factor * 10.0**exponent, max(0, more - exponent)


@dataclass(frozen=True)
class Logarithmic:
    """A scale in powers of ten: the exponents of what is at 0 and at 1."""

    low: int
    high: int

    @classmethod
    def over(cls, values: Iterable[float], trimmed: bool = False) -> Logarithmic | None:
        """Make a scale from power to power around the positive ones of `values`; None where there is none.

        If it is `trimmed`, the outermost hundredth of 20 or more values may lie beyond it at each end, if it is more than a
        power of ten apart from the others: a single outlier would leave no room for them.
        """
        known = sorted(value for value in values if value > 0)
        if not known:
            return None
        out = min(math.ceil(len(known) / 100), len(known) // 20) if trimmed else 0
        low = max(math.floor(math.log10(known[0])), math.floor(math.log10(known[out])) - 1)
        high = min(math.ceil(math.log10(known[-1])), math.ceil(math.log10(known[-1 - out])) + 1)
        return cls(low, max(high, low + 1))

    def at(self, value: float) -> float:
        """Place of a positive `value`, 0 to 1; values beyond the scale are at its ends."""
        return min(1.0, max(0.0, (math.log10(value) - self.low) / (self.high - self.low)))

    def beyond(self, values: Iterable[float]) -> tuple[int, int]:
        """How many of the positive ones of `values` lie below the scale, and how many above it."""
        powers = [math.log10(value) for value in values if value > 0]
        return sum(power < self.low for power in powers), sum(power > self.high for power in powers)

    def exponents(self, most: int) -> list[int]:
        """Exponents to label, evenly spaced and at most so many, from the lowest."""
        step = math.ceil((self.high - self.low) / (most - 1))
        return list(range(self.low, self.high + 1, step))


_WIDTH, _HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 20, 30, 44
_CHARACTER, _GAP, _SAMPLE = 6.2, 8.0, 3.0
_MOST_MARKS, _MOST_POINTS = 40, 300
_ROOM = 0.12
"""Share of the height to leave below labelled points, so that a label fits there too."""


@dataclass(frozen=True)
class Point:
    """One measurement: a place on both scales, and what to write beside it."""

    x: float
    y: float
    label: str = ""


Tick = tuple[float, str]
"""Where a round number is on an axis, and how it is written."""


@dataclass(frozen=True)
class Mark:
    """A drawn point; its label is empty where there is no room for it."""

    x: float
    y: float
    label: str
    label_x: float
    label_y: float


@dataclass(frozen=True)
class Chart:
    """A drawn chart: a line along `path` with `marks` on it, in units of which there are `width` and `height`."""

    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    path: str
    marks: tuple[Mark, ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM


class _Labels:
    """Places labels where nothing is yet: no dot, no line, no other label."""

    def __init__(self, places: Sequence[tuple[float, float]]) -> None:
        """Keep clear of the line through `places` and of the dots there."""
        self._taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
        for (x, y), (next_x, next_y) in itertools.pairwise(places):
            steps = max(1, round(math.hypot(next_x - x, next_y - y) / _SAMPLE))
            for step in range(steps):
                at_x, at_y = x + (next_x - x) * step / steps, y + (next_y - y) * step / steps
                self._taken.append((at_x - 1, at_y - 1, at_x + 1, at_y + 1))

    def place(self, x: float, y: float, label: str) -> Mark:
        """Put a label above, below, beside or at a corner of a point; leave it out where none of these is free."""
        half = _CHARACTER * len(label) / 2
        above, below, level = y - _GAP, y + _GAP + 9, y + 4
        beside = half + _GAP
        for centre, baseline in (
            (x, above),
            (x, below),
            (x - half, above),
            (x + half, below),
            (x + beside, level),
            (x - beside, level),
            (x + half, above),
            (x - half, below),
            (x - beside, above),
            (x + beside, below),
        ):
            box = (centre - half, baseline - 9, centre + half, baseline + 2)
            inside = box[0] >= 2 and box[2] <= _WIDTH - 2 and box[1] >= 2 and box[3] <= _HEIGHT - _BOTTOM
            if inside and not any(_overlap(box, other) for other in self._taken):
                self._taken.append(box)
                return Mark(x, y, label, round(centre, 1), round(baseline, 1))
        return Mark(x, y, "", x, y)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def chart_of(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    x_format: Callable[[float], str] | None = None,
    y_format: Callable[[float], str] | None = None,
    names: Sequence[str] = (),
    margin: float = 0.0,
    whole: bool = False,
) -> Chart | None:
    """Lay a line through `points`, in their order; None where there are fewer than two.

    `names` stand at 0, 1, 2 and so on of the axis to the right, in place of numbers. `margin` is the room on both sides of
    the points, as a share of that axis; `whole` says that it counts.
    """
    if len(points) < 2:
        return None
    shown = _thinned(points)
    x_scale = Linear(-0.4, len(names) - 0.6, (), 0)  # room on both sides for the names
    if not names:
        x_scale = Linear.within((point.x for point in shown), margin, whole)
    labelled = any(point.label for point in shown)
    y_scale = Linear.over((point.y for point in shown), _ROOM if labelled else 0.0)

    def across(value: float) -> float:
        return round(_LEFT + x_scale.at(value) * (_WIDTH - _LEFT - _RIGHT), 1)

    def up(value: float) -> float:
        return round(_HEIGHT - _BOTTOM - y_scale.at(value) * (_HEIGHT - _TOP - _BOTTOM), 1)

    if names:
        x_ticks = tuple((across(index), name) for index, name in enumerate(names))
    else:
        x_ticks = tuple((across(tick), _written(x_format, tick, x_scale.digits)) for tick in x_scale.ticks)
    y_ticks = tuple((up(tick), _written(y_format, tick, y_scale.digits)) for tick in y_scale.ticks)
    places = [(across(point.x), up(point.y)) for point in shown]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
    words = _described(points, y_label)
    return Chart(title, words, x_label, y_label, x_ticks, y_ticks, path, _marks(shown, places))


def _written(form: Callable[[float], str] | None, value: float, digits: int) -> str:
    return form(value) if form is not None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Means of neighbours, where there are more points than a line of this width can show."""
    if len(points) <= _MOST_POINTS:
        return points
    bounds = [index * len(points) // _MOST_POINTS for index in range(_MOST_POINTS + 1)]
    parts = [points[start:end] for start, end in itertools.pairwise(bounds)]
    return [Point(sum(p.x for p in part) / len(part), sum(p.y for p in part) / len(part)) for part in parts]


def _marks(points: Sequence[Point], places: Sequence[tuple[float, float]]) -> tuple[Mark, ...]:
    """Dots where there are few, with their labels."""
    if len(points) > _MOST_MARKS:
        return ()
    labels = _Labels(places)
    return tuple(labels.place(x, y, point.label) for point, (x, y) in zip(points, places, strict=True))


def _described(points: Sequence[Point], y_label: str) -> str:
    """The chart in words."""
    values = [point.y for point in points]
    return (
        f"{len(points)} points. {y_label}: first {values[0]:.4g}, last {values[-1]:.4g}, "
        f"lowest {min(values):.4g}, highest {max(values):.4g}."
    )
