"""Orders of removal. Pruning removes the first units, so a larger budget keeps every unit that a smaller one keeps."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dfpc_plugin.cost import CostModel
from dfpc_plugin.selection.candidate import Candidate

Price = Callable[[Tensor, Tensor], float]
"""The saving of removing channels (their numbers) when others, `(channels,)` of bool, are removed already."""

_ROUNDS = 100
"""How often prices are recomputed on the way through all units: after every hundredth, the step of the paper."""


class Order:
    """Units of several couplings, in the order of their removal.

    Attributes:
        candidates: The couplings.
        steps: `(steps,)`, the number of the candidate that loses its next lowest unit in each step.
        round_to: Round each coupling's remaining units to a multiple of this; None for no rounding.
    """

    def __init__(self, candidates: Sequence[Candidate], steps: Tensor, round_to: int | None = None) -> None:
        """Remove units of the candidates in the order of `steps`."""
        self.candidates, self.steps, self.round_to = list(candidates), steps, round_to

    def __len__(self) -> int:
        """The number of units that may be pruned."""
        return len(self.steps)

    @property
    def total(self) -> int:
        """The number of all units."""
        return sum(len(candidate.units) for candidate in self.candidates)

    def removed(self, length: int, before: Tensor) -> Tensor:
        """Which channels are removed after `length` steps, `(channels,)` of bool, in addition to those `before`."""
        result = before.clone()
        result[self.channels(length)] = True
        return result

    def counts(self, length: int) -> list[int]:
        """The number of units that each candidate loses in `length` steps."""
        counts = torch.bincount(self.steps[:length], minlength=len(self.candidates)).tolist()
        return [
            rounded(len(candidate.units), count, candidate.keep, self.round_to)
            for candidate, count in zip(self.candidates, counts, strict=True)
        ]

    def channels(self, length: int) -> Tensor:
        """Numbers of the channels that are removed in `length` steps."""
        pairs = zip(self.candidates, self.counts(length), strict=True)
        parts = [candidate.channels(count) for candidate, count in pairs if count]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long, device="cpu")


def by_saliency(candidates: Sequence[Candidate], round_to: int | None = None) -> Order:
    """Order units of all couplings by saliency, lowest first, whatever they save.

    Units that a candidate must keep are left out.
    """
    if not candidates:
        return Order(candidates, torch.zeros(0, dtype=torch.long, device="cpu"), round_to)
    lengths = torch.tensor([candidate.free for candidate in candidates], device="cpu")
    owner = torch.arange(len(candidates), device="cpu").repeat_interleave(lengths)
    saliency = torch.cat([candidate.saliency[: candidate.free] for candidate in candidates])
    return Order(candidates, owner[torch.argsort(saliency, stable=True)], round_to)


def by_saliency_per_cost(
    candidates: Sequence[Candidate],
    price: Price,
    costs: CostModel,
    removed: Tensor,
    round_to: int | None = None,
    *,
    together: int = 1,
    changed: Callable[[Tensor], bool] | None = None,
) -> Order:
    """Order units by saliency per saving (in MACs, parameters or seconds), lowest first.

    The saving of a unit depends on what was removed before. So after every hundredth of the units, prices are recomputed for
    couplings that share a layer, by `costs`, with one that has lost units; for all if `changed`, which gets the removed
    channels, says so. `removed` channels, `(channels,)` of bool, are removed already. `together` units are priced at once, as
    one unit may save nothing on vector hardware.
    """
    lost, removed = [0] * len(candidates), removed.clone()
    terms = [costs.neighbours(candidate.coupling.blocks[:, 0]) for candidate in candidates]
    prices = [0.0] * len(candidates)
    stale = set(range(len(candidates)))
    if changed is not None:
        changed(removed)
    total = sum(candidate.free for candidate in candidates)
    steps: list[Tensor] = []
    while sum(lost) < total:
        for number in stale:
            candidate = candidates[number]
            if lost[number] < candidate.free:
                count = min(together, candidate.free - lost[number])
                prices[number] = max(price(removed, candidate.channels(count, lost[number])) / count, 1e-12)
        chosen = _cheapest(candidates, lost, prices, max(1, total // _ROUNDS))
        steps.append(chosen)
        touched = {}
        for number, count in enumerate(torch.bincount(chosen, minlength=len(candidates)).tolist()):
            if count:
                removed[candidates[number].channels(count, lost[number])] = True
                lost[number] += count
                touched[number] = terms[number]
        gone = frozenset().union(*touched.values())
        everything = changed is not None and changed(removed)
        stale = {number for number, own in enumerate(terms) if everything or own & gone}
    return Order(candidates, torch.cat(steps) if steps else torch.zeros(0, dtype=torch.long, device="cpu"), round_to)


def _cheapest(candidates: Sequence[Candidate], lost: Sequence[int], prices: Sequence[float], count: int) -> Tensor:
    """Choose the next `count` units at fixed prices; returns the numbers of their candidates, in order."""
    ends = [min(candidate.free, done + count) for candidate, done in zip(candidates, lost, strict=True)]
    ratios = [
        candidate.saliency[done:end] / price
        for candidate, done, end, price in zip(candidates, lost, ends, prices, strict=True)
    ]
    owner = torch.arange(len(candidates), device="cpu").repeat_interleave(
        torch.tensor([len(ratio) for ratio in ratios], device="cpu")
    )
    return owner[torch.argsort(torch.cat(ratios), stable=True)[:count]]


def rounded(units: int, cut: int, keep: int, multiple: int | None) -> int:
    """Return how many units to prune so that a multiple remains: more than `cut`, or fewer if too few would remain.

    Of `units`, at least `keep` remain, and a `multiple` (None for no rounding), with which hardware is fast. Returns 0 if no
    multiple is possible.
    """
    if not multiple or not cut:
        return cut
    left = max((units - cut) // multiple, math.ceil(keep / multiple)) * multiple
    return max(0, units - left)


def shortest(fits: Callable[[int], bool], most: int, least: int = 0) -> int | None:
    """Return the smallest number from `least` to `most` that fits, or None; all larger numbers must fit, too."""
    if least > most or not fits(most):
        return None
    return least + bisect.bisect_left(range(least, most), True, key=fits)
