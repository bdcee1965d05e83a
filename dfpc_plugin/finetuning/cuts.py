"""Cuts one after the other: what each took, and what they took together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dfpc_plugin.pruning import CouplingCut, Figures, PruneResult

__all__ = ["Cut", "as_one", "original_indices", "scores_left"]

Removed = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cut:
    """One of several cuts.

    Attributes:
        before: What the model cost before it.
        after: What it costs after it.
        couplings: What each coupling lost by it.
        removed: Indices of the outputs that went, as they were numbered just before, by layer.
    """

    before: Figures
    after: Figures
    couplings: tuple[CouplingCut, ...]
    removed: Removed

    @classmethod
    def of(cls, result: PruneResult) -> Cut:
        """Keep of the result of pruning what a record needs."""
        before, after = (Figures(f.channels, f.macs, f.parameters) for f in (result.before, result.after))
        return cls(before, after, result.couplings, dict(result.removed))


def as_one(cuts: Sequence[Cut]) -> Cut:
    """Put cuts together as if all had been made at once, with indices as they were before the first."""
    couplings: dict[str, CouplingCut] = {}
    removed: Removed = {}
    gone: Removed = {}
    for cut in cuts:
        removed = original_indices(removed, cut.removed)
        gone = original_indices(gone, {coupling.name: coupling.gone for coupling in cut.couplings})
        for coupling in cut.couplings:
            first = couplings.get(coupling.name, coupling)
            couplings[coupling.name] = dataclasses.replace(first, after=coupling.after, gone=gone[coupling.name])
    return Cut(cuts[0].before, cuts[-1].after, tuple(couplings.values()), removed)


def scores_left(cuts: Sequence[Cut]) -> dict[str, tuple[float, ...]]:
    """Return what units that are left were worth before the first cut, by coupling; of those that had scores then."""
    whole, first = as_one(cuts), {coupling.name for coupling in cuts[0].couplings}
    return {
        coupling.name: tuple(score for unit, score in enumerate(coupling.scores) if unit not in set(coupling.gone))
        for coupling in whole.couplings
        if coupling.scores and coupling.name in first
    }


def original_indices(gone: Removed, then: Removed) -> Removed:
    """Add to what is `gone` what goes `then`, whose indices count only what remained; all by the numbers before both."""
    result = dict(gone)
    for layer, indices in then.items():
        before = sorted(gone.get(layer, ()))
        result[layer] = tuple(sorted([*before, *(_original(index, before) for index in indices)]))
    return result


def _original(index: int, gone: Sequence[int]) -> int:
    """The original number of what is now number `index`, when `gone` (in ascending order) went."""
    for missing in gone:
        if missing > index:
            break
        index += 1
    return index
