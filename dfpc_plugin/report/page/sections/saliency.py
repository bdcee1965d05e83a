"""Scores of the channels of every coupling, and which of them were removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dfpc_plugin.report.page.chart import Logarithmic
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import grouped, percent, power_of_ten

_BINS, _BIN, _HALF = 60, 5, 20
"""Bins of a strip, their width, and the height of each half of it."""


@dataclass(frozen=True)
class _Scores:
    """One coupling."""

    name: str
    kept: tuple[float, ...]
    gone: tuple[float, ...]


@dataclass(frozen=True)
class Strip:
    """One coupling, drawn: bars of kept units go up from the middle, bars of units that are removed go down.

    `zeros` are units at zero or below, in words; these have no place on a logarithmic scale.
    """

    name: str
    kept: int
    gone: int
    path_kept: str
    path_gone: str
    zeros: str


def saliency(record: Field) -> Mapping[str, Any] | None:
    """Return a strip per coupling, all on one logarithmic scale, in groups."""
    section = record["saliency"]
    couplings = [scores for coupling in section["couplings"].items() if (scores := _read(coupling)) is not None]
    if not couplings:
        return None
    every = [value for coupling in couplings for value in (*coupling.kept, *coupling.gone)]
    scale = Logarithmic.over(every, trimmed=True)
    beyond = (0, 0) if scale is None else scale.beyond(every)
    gone, units = sum(len(c.gone) for c in couplings), sum(len(c.gone) + len(c.kept) for c in couplings)
    return {
        "importance": section["importance"].text(),
        "groups": grouped((coupling.name, _strip(coupling, scale)) for coupling in couplings),
        "width": _BINS * _BIN,
        "half": _HALF,
        "decades": [] if scale is None else [round(scale.at(10.0**e) * _BINS * _BIN, 1) for e in scale.exponents(9)],
        "ends": [] if scale is None else _ends(scale, beyond),
        "beyond": sum(beyond),
        "gone": gone,
        "units": units,
        "share": percent(gone / units),
    }


def _ends(scale: Logarithmic, beyond: tuple[int, int]) -> list[str]:
    """What stands at the ends of a strip; a sign says that channels beyond the scale are drawn there, too."""
    signs = (sign if count else "" for sign, count in zip("≤≥", beyond, strict=True))
    return [sign + power_of_ten(exponent) for sign, exponent in zip(signs, (scale.low, scale.high), strict=True)]


def _read(coupling: Field) -> _Scores | None:
    """Separate the scores."""
    scores = coupling["scores"].numbers()
    gone = set()
    for index in coupling["gone"].items():
        value = index.number()
        if value is None or value % 1 or not 0 <= value < len(scores):
            raise index.wrong(f"the number of one of the coupling's {len(scores)} units")
        gone.add(int(value))
    known = [(value, index in gone) for index, value in enumerate(scores) if value is not None]
    if not known:
        return None
    return _Scores(
        coupling["name"].text(),
        tuple(value for value, is_gone in known if not is_gone),
        tuple(value for value, is_gone in known if is_gone),
    )


def _strip(coupling: _Scores, scale: Logarithmic | None) -> Strip:
    kept, gone = _histogram(coupling.kept, scale), _histogram(coupling.gone, scale)
    tallest = max([*kept, *gone, 1])
    zeros = [sum(value <= 0 for value in side) for side in (coupling.kept, coupling.gone)]
    counts = [f"{number} {side}" for number, side in zip(zeros, ("kept", "removed"), strict=True) if number]
    said = f"{', '.join(counts)} at zero" if counts else ""
    return Strip(
        coupling.name, len(coupling.kept), len(coupling.gone), _bars(kept, tallest, -1), _bars(gone, tallest, 1), said
    )


def _histogram(values: Sequence[float], scale: Logarithmic | None) -> list[int]:
    bins = [0] * _BINS
    for value in values:
        if value > 0 and scale is not None:
            bins[min(_BINS - 1, int(scale.at(value) * _BINS))] += 1
    return bins


def _bars(bins: Sequence[int], tallest: int, direction: int) -> str:
    """Bars from the middle up (-1) or down (1); a bar of one unit can still be seen, so heights grow as square roots."""
    parts = []
    for index, units in enumerate(bins):
        if units:
            height = max(3.0, (_HALF - 2) * (units / tallest) ** 0.5) * direction
            parts.append(f"M{index * _BIN} {_HALF + direction}v{height:.3g}h{_BIN - 1}V{_HALF + direction}z")
    return "".join(parts)
