"""Find the length of an order at which measured latency or accuracy meets the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import nn

from dfpc_plugin.latency import Latency, LatencyModel, LatencySettings
from dfpc_plugin.pruning.prunable_model import PrunableModel
from dfpc_plugin.selection import Order, Target, TargetError, Timed, shortest

_TRIES = 10
_TOLERANCE, _AIM = 0.05, 0.02
"""The search ends within the first fraction beyond the target; it aims at the second."""


@dataclass(frozen=True)
class Measured:
    """A number of removed units, with the latencies before and after, measured in turns."""

    length: int
    before: Latency
    after: Latency

    @property
    def speedup(self) -> float:
        """The speed-up over the unpruned model."""
        return self.after.speedup_over(self.before)

    def surplus(self, target: Target) -> float:
        """The speed-up over the latency that the target requires."""
        seconds = self.after.median
        return min(budget.surplus(value, self.speedup, seconds) for _, budget, value in target.given(Timed))


def length_for_latency(
    prunable: PrunableModel,
    order: Order,
    predictor: LatencyModel,
    target: Target,
    settings: LatencySettings,
    least: int,
    progress: Callable[[float], None],
) -> Measured:
    """Find the shortest length that is fast enough, by measuring some that are predicted to be.

    Every measurement corrects the prediction, and narrows the range of lengths. A length within 5 % beyond the target ends the
    search if a longer measurement confirms it, so the returned latencies meet the target. `least` is the shortest length that
    other budgets allow; `progress` is called with the fraction of the tries that are used. Raises TargetError, with the best
    that was found, if no length is fast enough.
    """

    def predict(length: int) -> float:
        return predictor.seconds(order.removed(length, prunable.channels.removed))

    def first_within(seconds: float) -> int:
        """The shortest length that is predicted to take so long, or else the longest."""
        length = shortest(lambda k: predict(k) <= seconds, high, low)
        return high if length is None else length

    forwards = None if settings.forwards is None else 2 * settings.forwards
    longer = dataclasses.replace(settings, min_run_time=2 * settings.min_run_time, forwards=forwards)
    tried: dict[int, Measured] = {}
    bracket = _Bracket(predict(0))
    low, high = least, len(order)
    for number in range(2 * _TRIES):
        if number >= _TRIES and any(found.surplus(target) >= 1 for found in tried.values()):
            break
        # aiming at the limit itself misses it half the time
        wanted = min(budget.seconds(value, bracket.full) for _, budget, value in target.given(Timed)) / (1 + _AIM)
        length = first_within(bracket.predicted_for(wanted))
        if length in tried or number >= _TRIES:  # if predictions do not help, as on a busy machine, halve the range
            length = (low + high) // 2
        pair = {"before": predictor.prepared, "after": prunable.copy_without(order.channels(length))}
        found = _measured(prunable, pair, length, settings if length not in tried else longer)
        if found.surplus(target) >= 1 and (found.surplus(target) <= 1 + _TOLERANCE or length == low):
            found = _measured(prunable, pair, length, longer)  # confirm it, as it may be chance
            if found.surplus(target) >= 1:
                return found
        tried[length] = found
        progress(min(1.0, (number + 1) / _TRIES))
        enough = found.surplus(target) >= 1
        bracket.learn(predict(length), found, enough)
        low, high = (low, length) if enough else (length + 1, high)
        if low > high:
            break
    return _best(target, tried.values())


class _Bracket:
    """Predicted and measured seconds on both sides of the target; `full`: seconds of the unpruned model, measured last."""

    def __init__(self, full: float) -> None:
        self.full = self._predicted_full = full
        self._slow: list[tuple[float, float]] = []
        self._fast: list[tuple[float, float]] = []

    def learn(self, predicted: float, found: Measured, enough: bool) -> None:
        self.full = found.before.median
        (self._fast if enough else self._slow).append((predicted, found.after.median))

    def predicted_for(self, wanted: float) -> float:
        """The prediction at which `wanted` seconds are expected: on the line through the two nearest known points."""
        points = [(self._predicted_full, self.full), *self._slow[-1:], *self._fast[-1:]][-2:]
        if len(points) == 1 or points[0][1] == points[1][1]:
            predicted, took = points[-1]
            return wanted * predicted / took
        (first, took_first), (second, took_second) = points
        return first + (wanted - took_first) * (second - first) / (took_second - took_first)


def _best(target: Target, tried: Collection[Measured]) -> Measured:
    """The shortest length that was fast enough; raise TargetError if none was."""
    enough = [found for found in tried if found.surplus(target) >= 1]
    if enough:
        return min(enough, key=lambda found: found.length)
    best = max(tried, key=lambda found: found.surplus(target))
    raise TargetError(
        f"The target {target} cannot be reached: the fastest cut found is {best.speedup:.2f}x, "
        f"{1e3 * best.after.median:.3g} ms (the middle half of its rounds spreads by {best.after.noise:.0%}). Ask for "
        f"less, or allow more with max_ratio and ignored_layers. The model is as it was."
    )


def _measured(prunable: PrunableModel, pair: dict[str, nn.Module], length: int, settings: LatencySettings) -> Measured:
    pair["after"] = settings.prepared(pair["after"], prunable.inputs)  # once for all measurements
    latencies = settings.measure(pair, prunable.inputs)
    return Measured(length, latencies["before"], latencies["after"])


def length_for_score(score_of: Callable[[int], float], base: float, max_drop: float, most: int) -> tuple[int, float]:
    """Find the greatest length up to `most` whose score has dropped by at most `max_drop`, to a hundredth of `most`.

    `score_of` scores the model after that many steps of an order (higher is better; scores are assumed to fall with the
    length), `base` is the score of the unpruned model. Returns the length and its score, which was computed.
    """
    low, score, high = 0, base, most + 1
    tolerance = max(1, most // 100)
    while high - low > tolerance:
        middle = (low + high) // 2
        found = score_of(middle)
        if base - found <= max_drop:
            low, score = middle, found
        else:
            high = middle
    return low, score
