"""Cuts one after the other: what each took, what they took together, and how far a schedule still has to prune."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dfpc_plugin.finetuning.settings import FinetuneError
from dfpc_plugin.pruning import CouplingCut, Figures, PruneResult
from dfpc_plugin.selection import Counted, Target

Removed = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cut:
    """One of several cuts.

    Attributes:
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
    """Return the first scores of the channels that remain, by coupling; only of couplings that had scores then."""
    first = {coupling.name for coupling in cuts[0].couplings}
    known = [coupling for coupling in as_one(cuts).couplings if coupling.scores and coupling.name in first]
    gone = {coupling.name: frozenset(coupling.gone) for coupling in known}
    return {
        coupling.name: tuple(s for unit, s in enumerate(coupling.scores) if unit not in gone[coupling.name])
        for coupling in known
    }


def original_indices(gone: Removed, then: Removed) -> Removed:
    """Add to the indices `gone` those removed `then`, which count only what remained; return all as originally numbered."""
    result = dict(gone)
    for layer, indices in then.items():
        before = sorted(gone.get(layer, ()))
        remaining = [index - place for place, index in enumerate(before)]  # how many remain below each
        now = (index + bisect.bisect_right(remaining, index) for index in indices)
        result[layer] = tuple(sorted([*before, *now]))
    return result


_ROUNDING = 1 + 1e-9
"""A share of a share need not be, in floating point, the number that it is of."""


@dataclass(frozen=True)
class Goal:
    """A target, and what the model as it was given, of which its shares are, costs."""

    target: Target
    full: Figures

    @staticmethod
    def parse(target: str | Target) -> Target:
        """Read a target; raise a FinetuneError unless it is counted."""
        wanted = Target.parse(target)
        if wanted.measured or wanted.max_drop is not None:
            raise FinetuneError(
                f"A schedule goes step by step towards a target that is counted, and '{wanted}' is measured; give macs=, params= or "
                f"ratio=, or prune once and fine-tune afterwards."
            )
        return wanted

    def left(self, now: Figures) -> Target | None:
        """The same target as shares of the model as it is now; None if it holds."""
        wanted = {
            name: budget.kept(budget.limit(value, self.full) / budget.count(now))
            for name, budget, value in self.target.given(Counted)
            if budget.count(now) > budget.limit(value, self.full) * _ROUNDING
        }
        return Target(**wanted) if wanted else None

    def reached(self, now: Figures) -> dict[str, float]:
        """Return the budgets of the target as they are now."""
        return {name: budget.reached(self.full, now) for name, budget, _ in self.target.given(Counted)}

    def way(self, now: Figures) -> float:
        """How much of the way is done, 0 to 1, by the budget that is furthest behind."""
        return min(self._done(budget, value, now) for _, budget, value in self.target.given(Counted))

    def _done(self, budget: Counted, value: float, now: Figures) -> float:
        """How much of the way to one budget is done."""
        full, limit, count = budget.count(self.full), budget.limit(value, self.full), budget.count(now)
        return 1.0 if count <= limit * _ROUNDING else (full - count) / (full - limit)
