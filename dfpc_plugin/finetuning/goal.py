"""How far a schedule still has to prune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dfpc_plugin.finetuning.errors import FinetuneError
from dfpc_plugin.pruning import Figures
from dfpc_plugin.selection import Target

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
        """Read a target that is counted.

        Raises:
            FinetuneError: It is measured.
            TargetError: It is none.
        """
        wanted = Target.parse(target)
        if wanted.measured or wanted.max_drop is not None:
            raise FinetuneError(
                f"A schedule goes step by step towards a target that is counted, and '{wanted}' is measured; give macs=, params= or "
                f"ratio=, or prune once and fine-tune afterwards."
            )
        return wanted

    def left(self, now: Figures) -> Target | None:
        """The same target as shares of the model as it is now; None if it holds."""
        wanted = {name: value for name, value in self._budgets().items() if self._cost(now, name) > value * _ROUNDING}
        if not wanted:
            return None
        shares: dict[str, Any] = {name: value / self._cost(now, name) for name, value in wanted.items()}
        if "ratio" in shares:
            shares["ratio"] = 1 - shares["ratio"]
        return Target(**shares)

    def reached(self, now: Figures) -> dict[str, float]:
        """Return the budgets of the target as they are now."""
        shares = {name: self._cost(now, name) / self._cost(self.full, name) for name in self._budgets()}
        return shares | ({"ratio": 1 - shares["ratio"]} if "ratio" in shares else {})

    def way(self, now: Figures) -> float:
        """How much of the way is done, 0 to 1, by the budget that is furthest behind."""
        return min(
            1.0 if self._cost(now, name) <= value * _ROUNDING
            else (self._cost(self.full, name) - self._cost(now, name)) / (self._cost(self.full, name) - value)
            for name, value in self._budgets().items()
        )  # fmt: skip

    def _budgets(self) -> dict[str, float]:
        """What may be left at most, in counts."""
        found: dict[str, float] = {}
        if self.target.ratio is not None:
            found["ratio"] = (1 - self.target.ratio) * self.full.channels
        if self.target.macs is not None:
            found["macs"] = self.target.macs * self.full.macs
        if self.target.params is not None:
            found["params"] = self.target.params * self.full.parameters
        return found

    @staticmethod
    def _cost(figures: Figures, name: str) -> int:
        return {"ratio": figures.channels, "macs": figures.macs, "params": figures.parameters}[name]
