"""How far a schedule still has to prune."""

from __future__ import annotations

from dataclasses import dataclass

from dfpc_plugin.finetuning.errors import FinetuneError
from dfpc_plugin.pruning import Figures
from dfpc_plugin.selection import Counted, Target

__all__ = ["Goal"]

_ROUNDING = 1 + 1e-9
"""A share of a share need not be, in floating point, the number that it is of."""


@dataclass(frozen=True)
class Goal:
    """A target, and the model that its shares are of.

    Attributes:
        target: What was asked for, of the model as it was given.
        full: What that model costs.
    """

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
