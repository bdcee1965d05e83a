"""Prune a model that is being trained, step by step, in all processes alike."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.errors import NothingToPruneError
from dfpc_plugin.evaluation import model_device
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.finetuning.cuts import Cut, Goal, scores_left
from dfpc_plugin.finetuning.run import Run
from dfpc_plugin.host.checks import listed
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.pruning import PruneResult, PruneSettings, prune, replay
from dfpc_plugin.repaired_importance import default_importance
from dfpc_plugin.repairing import RepairSettings
from dfpc_plugin.selection import Target, TargetError


@dataclass(frozen=True)
class Cutter:
    """Which channels to prune, apart from how many, and how to repair.

    Attributes:
        inputs: What the model is called with.
        pruning: What may be pruned, and in which order.
        importance: What scores channels; None for DFPC's `expected` ranking, which spreads a share of the channels over layers.
        repair: How to repair the pruned model after every cut; None for not at all.
        forward_fn: Called instead of the model, if given.
        anchored: Couplings keep the weight that they had against each other before the first cut.
    """

    inputs: ExampleInputs
    pruning: PruneSettings
    importance: Any = None
    repair: RepairSettings | None = None
    forward_fn: ForwardFunction | None = None
    anchored: bool = True

    def prune(
        self, model: nn.Module, target: Target, kept: Sequence[str] = (), cuts: Sequence[Cut] = ()
    ) -> PruneResult:
        """Prune a copy of a model, but not the layers `kept`, which have lost all they may by the `cuts` before."""
        options = vars(self.pruning) | {"ignored_layers": [*listed(self.pruning.ignored_layers), *kept]}
        importance = self.importance or default_importance(self.repair, self.inputs)
        if self.anchored and cuts:
            importance = Anchored(importance, scores_left(cuts))
        return prune(
            model, self.inputs, target,
            importance=importance, repair=self.repair, forward_fn=self.forward_fn, **options,
        )  # fmt: skip

    def cut(self, run: Run, goal: Goal, share: float, cuts: Sequence[Cut]) -> Cut:
        """Replace the model of `run` by one that has lost a share of its channels, or less if that reaches the goal.

        The main process cuts; the others do the same to their own copies and take its weights. TargetError: no more can be pruned.
        """
        run.model = run.model.to(model_device(run.given))
        found: dict[str, nn.Module] = {}

        def decide() -> Cut:
            result = self._further(run.model, goal, share, cuts)
            found["model"] = result.model
            return Cut.of(result)

        cut = run.engine.agreed(decide)
        before, run.model = run.model, found.get("model") or self._same(cut, copy.deepcopy(run.model))
        if run.memory is not None:
            run.memory = run.memory.after(functools.partial(self._same, cut), before)
        run.engine.share([*run.model.parameters(), *run.model.buffers()])
        return cut

    def _same(self, cut: Cut, model: nn.Module) -> nn.Module:
        """Do a cut again to a model like the one that it was done to."""
        return replay(model, self.inputs, cut.removed, self.forward_fn)

    def _further(self, model: nn.Module, goal: Goal, share: float, cuts: Sequence[Cut]) -> PruneResult:
        now = cuts[-1].after if cuts else goal.full
        left, kept = goal.left(now), _exhausted(cuts, self.pruning)
        assert left is not None
        try:
            result = None
            with contextlib.suppress(TargetError):  # so many channels may not go
                result = self.prune(model, Target(ratio=share), kept, cuts)
            if result is None or goal.left(result.after) is None:  # less than the share has to be, or may be, enough
                result = self.prune(model, left, kept, cuts)
        except (TargetError, NothingToPruneError) as error:
            raise TargetError(
                f"The schedule came to {_spelled(goal.reached(now))} by {len(cuts)} cuts and cannot go on to {goal.target}: {error}"
            ) from error
        if not result.removed:
            raise TargetError(
                f"The schedule came to {_spelled(goal.reached(now))} by {len(cuts)} cuts, and the next removed nothing; give a "
                f"larger share, or a larger max_ratio."
            )
        return result

    def described(self) -> dict[str, Any]:
        """Return what decides which channels go, as JSON has it."""
        ignored = [
            layer if isinstance(layer, str) else type(layer).__name__ for layer in listed(self.pruning.ignored_layers)
        ]
        repair = None
        if self.repair is not None:
            repair = {name: value for name, value in vars(self.repair).items() if name not in ("images", "checkpoint")}
        return {
            "pruning": vars(self.pruning) | {"ignored_layers": ignored},
            "importance": type(self.importance).__name__,
            "repair": repair,
            "anchored": self.anchored,
        }


def _exhausted(cuts: Sequence[Cut], settings: PruneSettings) -> list[str]:
    """Layers of couplings that have lost, by all cuts together, the share that any may lose."""
    widths: dict[str, int] = {}
    result: list[str] = []
    for cut in cuts:
        for coupling in cut.couplings:
            first = widths.setdefault(coupling.name, coupling.before)
            if coupling.after <= (1 - settings.max_ratio) * first:
                result += [layer for layer in coupling.layers if layer not in result]
    return result


def _spelled(reached: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in reached.items())


class Anchored:
    """Saliency whose mean in every coupling is what it was for the same channels of the unpruned model.

    Criteria compare couplings by scores relative to the mean over the remaining channels. A cut removes the lowest scores, so
    that mean rises, and every remaining channel looks less important: couplings that were pruned once would be pruned more and
    more. So the weights of couplings against each other stay those of the unpruned model; new is only the order within each.
    """

    def __init__(self, importance: Any, left: Mapping[str, Sequence[float]]) -> None:
        """Score by an importance of Torch-Pruning; `left` has the first scores of the remaining units, by coupling."""
        self.importance, self._left = importance, left

    def __call__(self, group: Any) -> Tensor | None:
        """Score the units of a coupling; None where the criterion has nothing to say."""
        scores = self.importance(group)
        before = self._left.get(group.couplings[0].name)
        if scores is None or before is None or len(before) != len(scores):
            return scores
        mean = scores.double().mean()
        return scores if not mean > 0 else scores * (torch.tensor(before, dtype=torch.float64).mean() / mean).to(scores)
