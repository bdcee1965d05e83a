"""Scores of models by the user's own function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from dfpc_plugin.preserve import evaluating
from dfpc_plugin.progress import Phases
from dfpc_plugin.selection import TargetError

Evaluate = Callable[[nn.Module], Any]
"""From a model in evaluation mode to a number, higher is better."""


class Scores:
    """Calls `evaluate`, and keeps the scores before and after pruning in `known`."""

    def __init__(self, evaluate: Evaluate | None, phases: Phases) -> None:
        """Score models by `evaluate`, in a phase of its own."""
        self._evaluate, self._phases = evaluate, phases
        self.known: dict[str, float] = {}

    def of(self, name: str, model: nn.Module) -> float:
        """Score a copy that is used for nothing else, and keep the score; raises TargetError if it is no number."""
        assert self._evaluate is not None
        with self._phases("evaluating"), evaluating(model, hooks=False):
            found = self._evaluate(model)
        try:
            score = float(found)
        except (TypeError, ValueError):
            raise TargetError(
                f"evaluate returned {found!r}, which is no number; return a score, more is better."
            ) from None
        if score != score:
            raise TargetError("evaluate returned NaN; return a score, more is better.")
        self.known[name] = score
        return score

    def warn_if_constant(self, emptied: Callable[[], nn.Module]) -> None:
        """Warn if a model without most of its channels has the score of the unpruned one, too, as the pruned one has."""
        known = dict(self.known)
        if known["after"] == known["before"] == self.of("emptied", emptied()):
            warnings.warn(
                f"evaluate returned {known['before']:.4g} for the unpruned model, for the pruned one, and for one that has lost all channels "
                f"that may be pruned. It has to score the model that it is called with: evaluate=lambda model: accuracy(model). A "
                f"score that does not depend on the model limits nothing.",
                stacklevel=6,
            )
        self.known = known

    def before(self, model: Callable[[], nn.Module]) -> None:
        """Score the unpruned model, unless that has been done or there is no `evaluate`."""
        if self._evaluate is not None and "before" not in self.known:
            self.of("before", model())

    def both(self, after: Callable[[], nn.Module]) -> tuple[float | None, float | None]:
        """Return the scores before and after (computed if unknown); None without `evaluate`."""
        if self._evaluate is None:
            return None, None
        if "after" not in self.known:
            self.of("after", after())
        return self.known["before"], self.known["after"]
