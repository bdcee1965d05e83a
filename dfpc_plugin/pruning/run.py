"""One call of `prune`: rank the units of a model, and find how many of them to remove."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dfpc_plugin.latency import LatencyModel, LatencySettings
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.progress import Phases
from dfpc_plugin.pruning.find_length import Measured, length_for_latency, length_for_score
from dfpc_plugin.pruning.prunable_model import PrunableModel, copy_of
from dfpc_plugin.pruning.rank import Importance, candidates_of, order_of, rescored_order
from dfpc_plugin.pruning.repairs import Repairer
from dfpc_plugin.repaired_importance import repaired_in
from dfpc_plugin.selection import Order, Target, TargetError, keeps_budgets, length_for_budgets

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
        if known["after"] != known["before"]:
            return
        try:
            constant = self.of("emptied", emptied()) == known["before"]
        except Exception:  # a model without most of its channels may fail in any way: the score depends on the model
            constant = False
        if constant:
            warnings.warn(
                f"evaluate returned {known['before']:.4g} for the unpruned model, for the pruned one, and for one that has lost all "
                f"channels that may be pruned. It has to score the model that it is called with: evaluate=lambda model: "
                f"accuracy(model). A score that does not depend on the model limits nothing.",
                stacklevel=6,
            )
        self.known = known

    def add(self, name: str, model: nn.Module) -> None:
        """Score a copy of a model, unless that has been done or there is no `evaluate`."""
        if self._evaluate is not None and name not in self.known:
            self.of(name, copy_of(model).eval())


@dataclass(frozen=True)
class Selected:
    """The first `length` units of an order, and the latencies before and after if these were measured."""

    order: Order
    length: int
    measured: Measured | None

    @property
    def channels(self) -> Tensor:
        """Numbers of the channels to remove."""
        return self.order.channels(self.length)


@dataclass(frozen=True)
class PruningRun:
    """What one call of `prune` works with."""

    prunable: PrunableModel
    target: Target
    importance: Importance
    latency: LatencySettings | None
    scores: Scores
    phases: Phases
    repairer: Repairer

    def select(self) -> Selected:
        """Rank all units, and find the smallest length that reaches the target, or the longest that `max_drop` allows."""
        prunable, target = self.prunable, self.target
        ranking = repaired_in(self.importance)
        if ranking is not None and ranking.calibration is not None:
            with self.phases("images") as tell:
                ranking.prepare(prunable.graph, tell)
        with self.phases("saliency") as tell:
            candidates = candidates_of(prunable, self.importance, tell)
        self.repairer.share_noise(self.importance)
        predictor = None
        if self.latency is not None and (target.measured or prunable.settings.per == "latency"):
            with self.phases("latency of layers") as tell:
                predictor = LatencyModel(prunable.model, prunable.inputs, prunable.channels, self.latency, tell)
        with self.phases("selection") as tell:
            rank = functools.partial(order_of, prunable, latency=predictor, target=target)
            if prunable.settings.rescore is None:
                order = rank(candidates, prunable.channels.removed)
            else:
                order = rescored_order(prunable, self.importance, rank, self._is_enough, tell, self.repairer.repair)
            length = length_for_budgets(order, prunable.costs, prunable.channels.removed, target)
        measured = None
        if target.measured and predictor is not None and self.latency is not None:
            with self.phases("measuring latency") as tell:
                measured = length_for_latency(prunable, order, predictor, target, self.latency, length, tell)
            length = measured.length
        if target.max_drop is not None:
            length = self._length_for_score(order, length, target.max_drop)
        return Selected(order, length, measured)

    def _is_enough(self, removed: Tensor, ratio: float) -> bool:
        """Whether removing channels meets every budget; a measured budget may need all that can be removed."""
        counted = self.target.max_drop is None and not self.target.measured
        return counted and keeps_budgets(self.target, self.prunable.costs, removed, ratio)

    def _length_for_score(self, order: Order, length: int, max_drop: float) -> int:
        """The length that the accuracy allows; raise TargetError if it does not allow the one for other budgets."""
        prunable, scores = self.prunable, self.scores
        base = scores.of("before", copy_of(prunable.model))
        if 0 < base <= max_drop:
            raise TargetError(
                f"max_drop={max_drop:g} allows any loss, because evaluate returned {base:.4g} for the unpruned model. Give the drop "
                f"in the unit of evaluate: 0.02 for two points of an accuracy between 0 and 1."
            )

        def score_of(steps: int) -> float:
            channels = order.channels(steps)
            return scores.of(
                "after", self.repairer.repaired(prunable.copy_without(channels), prunable.removed_with(channels))
            )

        emptied = functools.partial(prunable.copy_without, order.channels(len(order)))
        if not (self.target.measured or self.target.counted):
            length, scores.known["after"] = length_for_score(score_of, base, max_drop, len(order))
            scores.warn_if_constant(emptied)
            return length
        score = score_of(length)
        scores.warn_if_constant(emptied)
        if base - score > max_drop:
            raise TargetError(
                f"The target {self.target} cannot be reached: the other budgets take evaluate from {base:.4g} to {score:.4g}, a "
                f"drop of {base - score:.4g}. Ask for less, allow a larger drop, or repair and fine-tune. The model is as it was."
            )
        return length
