"""In which order units go. A cut is a beginning of an order, so a larger budget never costs a unit that a smaller keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dfpc_plugin.cost import CostModel
from dfpc_plugin.selection.candidate import Candidate
from dfpc_plugin.selection.rounding import rounded

__all__ = ["Order", "Price", "by_saliency", "by_saliency_per_cost"]

Price = Callable[[Tensor, Tensor], float]
"""What removing channels (their numbers) saves where others, `(channels,)` of bool, are removed already."""

_ROUNDS = 100
"""How often prices are found anew on the way through all units: after every hundredth of them, as the paper cuts."""


class Order:
    """Units of several couplings, the first to be pruned first.

    Attributes:
        candidates: The couplings.
        steps: `(steps,)`, for every unit the number of the candidate that loses its next lowest one.
        round_to: What every coupling keeps a multiple of; None for no such wish.
    """

    def __init__(self, candidates: Sequence[Candidate], steps: Tensor, round_to: int | None = None) -> None:
        """Let candidates lose units in the order of `steps`."""
        self.candidates, self.steps, self.round_to = list(candidates), steps, round_to

    def __len__(self) -> int:
        """How many units may be pruned."""
        return len(self.steps)

    @property
    def total(self) -> int:
        """How many units there are, those that must stay included."""
        return sum(len(candidate.units) for candidate in self.candidates)

    def removed(self, length: int, before: Tensor) -> Tensor:
        """Which channels are removed, `(channels,)` of bool, when the order is followed from `before` for `length` steps."""
        result = before.clone()
        result[self.channels(length)] = True
        return result

    def counts(self, length: int) -> list[int]:
        """How many units each candidate loses when the order is followed for `length` steps."""
        counts = torch.bincount(self.steps[:length], minlength=len(self.candidates)).tolist()
        return [
            rounded(len(candidate.units), count, candidate.keep, self.round_to)
            for candidate, count in zip(self.candidates, counts, strict=True)
        ]

    def channels(self, length: int) -> Tensor:
        """Numbers of the channels that are removed when the order is followed for `length` steps."""
        pairs = zip(self.candidates, self.counts(length), strict=True)
        parts = [candidate.channels(count) for candidate, count in pairs if count]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long, device="cpu")


def by_saliency(candidates: Sequence[Candidate], round_to: int | None = None) -> Order:
    """Remove the lowest saliency of all couplings first, whatever that saves.

    What a candidate must keep is never removed; units of others go instead.
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
    """Remove first what loses the least saliency for what it saves.

    What a unit saves depends on what has been removed before it, so prices are found anew after every hundredth of the units,
    for couplings that share a layer with one that has lost some.

    Args:
        candidates: What may be pruned.
        price: What removing channels saves, in MACs, parameters or seconds.
        costs: Tells which couplings have to do with each other.
        removed: Channels that are removed already, `(channels,)` of bool.
        round_to: What every coupling keeps a multiple of.
        together: How many units are priced at once, where a single one may save nothing: hardware works in vectors.
        changed: Tells, from the channels that are removed, whether all prices have changed.
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
    """Choose the next `count` units at fixed prices: the numbers of their candidates, in order."""
    ends = [min(candidate.free, done + count) for candidate, done in zip(candidates, lost, strict=True)]
    ratios = [
        candidate.saliency[done:end] / price
        for candidate, done, end, price in zip(candidates, lost, ends, prices, strict=True)
    ]
    owner = torch.arange(len(candidates), device="cpu").repeat_interleave(
        torch.tensor([len(ratio) for ratio in ratios], device="cpu")
    )
    return owner[torch.argsort(torch.cat(ratios), stable=True)[:count]]
