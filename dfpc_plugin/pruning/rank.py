"""Rank the units of a model in the order of their removal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.advice import call
from dfpc_plugin.cost import CostModel
from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.criteria import require_gradients
from dfpc_plugin.errors import NothingToPruneError, PrunerSettingError
from dfpc_plugin.families.registry import ForwardFunction, data_flow_forward
from dfpc_plugin.host import DataFlowGraph, DataFlowGroup
from dfpc_plugin.host.checks import ignored_modules
from dfpc_plugin.importance import DFPCImportance, unchanged
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.latency import FAST_MULTIPLE, LatencyModel
from dfpc_plugin.pruning.prunable_model import PrunableModel, copy_of
from dfpc_plugin.pruning.settings import PruneSettings
from dfpc_plugin.repaired_importance import RepairedImportance
from dfpc_plugin.selection import Candidate, Order, Target, by_saliency, by_saliency_per_cost, keep_at_least
from dfpc_plugin.selection.budget_kinds import Counted, Counts
from dfpc_plugin.selection.order import Price
from dfpc_plugin.surgery.probe import FAILS

UNSCORED = "has no score: the importance does not know the layers that produce it"

Importance = Callable[[Any], Tensor | None]
"""From a group to one score per unit, or None where it has none, as in Torch-Pruning."""


def build_prunable(
    model: nn.Module,
    inputs: ExampleInputs,
    forward_fn: ForwardFunction | None,
    settings: PruneSettings,
    importance: Importance,
) -> PrunableModel:
    """Find the couplings of `model`; an `importance` that scores by data flow is computed in the same run."""
    own = data_flow_forward(model) is None  # a registered forward may use other shapes for channels than for scores
    by_flow = importance if isinstance(importance, DFPCImportance | RepairedImportance) else None
    flow = by_flow.flow if own and by_flow is not None else None
    graph = DataFlowGraph(whole_heads=settings.whole_heads, flow=flow)
    graph.build_dependency(model, inputs, forward_fn=forward_fn)
    bounds = graph.coupling_map.bounds
    if bounds is not None and by_flow is not None:
        by_flow.score_by(graph, bounds)
        graph.coupling_map = dataclasses.replace(graph.coupling_map, bounds=None)  # frees all bounds
    return PrunableModel(graph, inputs, forward_fn, settings)


def candidates_of(
    prunable: PrunableModel, importance: Importance, progress: Callable[[float], None] = lambda share: None
) -> list[Candidate]:
    """Score every coupling that may lose units; `progress` is called with the fraction that is scored.

    Raises:
        NothingToPruneError: There is no such coupling.
        PrunerSettingError: The importance returns a wrong number of scores, or scores that are not finite.
    """
    graph, settings = prunable.graph, prunable.settings
    ignored = ignored_modules(graph.model, settings.ignored_layers)
    found = []
    with unchanged(graph):
        groups = list(graph.get_all_groups(ignored))
        for number, group in enumerate(groups):
            progress(number / len(groups))
            (coupling,), (units,) = group.couplings, group.units
            if settings.coupled or len(coupling.feed_in) == 1:
                saliency = _saliency_of(group, importance)
                if saliency is not None:
                    keep = keep_at_least(coupling, settings.max_ratio, settings.min_channels)
                    found.append(Candidate.ranked(coupling, units, saliency, keep))
    if not any(candidate.free for candidate in found):
        reasons = ((coupling.name, coupling.protected or "") for coupling in graph.couplings)
        failed = next((f" On trial, '{name}' {reason}." for name, reason in reasons if reason.startswith(FAILS)), "")
        raise NothingToPruneError(
            "No coupling of this model can be pruned: all are protected, ignored, without scores, or as narrow as "
            f"min_channels and max_ratio allow. {call('find_couplings', 'couplings MODEL')} shows the reasons.{failed}"
        )
    return found


def left_out(prunable: PrunableModel, candidates: Sequence[Candidate]) -> list[tuple[DataFlowCoupling, str]]:
    """List couplings that could be pruned but are not among the ranked `candidates`, each with the reason."""
    graph, settings = prunable.graph, prunable.settings
    ranked = {id(candidate.coupling) for candidate in candidates}
    known = {id(group.couplings[0]) for group in graph.get_all_groups()}
    ignored = ignored_modules(graph.model, settings.ignored_layers)
    allowed = {id(group.couplings[0]) for group in graph.get_all_groups(ignored)}
    found = []
    for coupling in graph.couplings:
        if coupling.protected is None and id(coupling) not in ranked:
            if id(coupling) in known and id(coupling) not in allowed:
                reason = "is in ignored_layers"
            elif not settings.coupled and len(coupling.feed_in) > 1:
                reason = "is produced by several layers, which coupled=False leaves alone"
            else:
                reason = UNSCORED
            found.append((coupling, reason))
    return found


def _saliency_of(group: DataFlowGroup, importance: Importance) -> Tensor | None:
    require_gradients(importance, group)
    saliency = importance(group)
    if saliency is None:
        return None
    saliency = torch.as_tensor(saliency)
    count, name = len(group.units[0]), group.couplings[0].name
    if saliency.shape != (count,):
        raise PrunerSettingError(
            f"{type(importance).__name__} returned {tuple(saliency.shape)} scores for the {count} units of '{name}'; "
            f"return one per root index of the group."
        )
    if not torch.isfinite(saliency).all():
        raise PrunerSettingError(
            f"{type(importance).__name__} returned scores for '{name}' that are not finite; give the layers with such "
            f"weights to ignored_layers, or repair them."
        )
    return saliency


def order_of(
    prunable: PrunableModel,
    candidates: list[Candidate],
    removed: Tensor,
    *,
    latency: LatencyModel | None,
    target: Target,
) -> Order:
    """Rank units according to the settings; `removed` channels, `(channels,)` of bool, are removed already."""
    settings, costs = prunable.settings, prunable.costs
    toward = _Toward(target, costs, sum(each.coupling.blocks.numel() for each in candidates) + int(removed.sum()))
    prices: dict[str, Price] = {
        "target": toward,
        "macs": lambda gone, channels: float(costs.saving(gone, channels).macs),
        "params": lambda gone, channels: float(costs.saving(gone, channels).parameters),
        "latency": lambda gone, channels: 0.0 if latency is None else latency.saving(gone, channels),
    }
    per = settings.per or "channel"
    if per == "channel":
        return by_saliency(candidates, settings.round_to)
    together = FAST_MULTIPLE if per == "latency" else 1
    changed = toward.changed if per == "target" else None
    return by_saliency_per_cost(
        candidates, prices[per], costs, removed, settings.round_to, together=together, changed=changed
    )


class _Toward:
    """The saving for `per="target"`: for every unmet count of the target, the share of the required saving, summed."""

    def __init__(self, target: Target, costs: CostModel, channels: int) -> None:
        self._costs, self._channels = costs, channels
        self._full = Counts(1.0, costs.full.macs, costs.full.parameters)
        self._budgets = [(budget, budget.limit(value, self._full)) for _, budget, value in target.given(Counted)]
        self._open = self._budgets

    def __call__(self, removed: Tensor, more: Tensor) -> float:
        saving = self._costs.saving(removed, more)
        saved = Counts(len(more) / self._channels, saving.macs, saving.parameters)
        return sum(budget.count(saved) / (budget.count(self._full) - limit) for budget, limit in self._open)

    def changed(self, removed: Tensor) -> bool:
        """Update which budgets are unmet; returns whether savings have changed."""
        cost, before = self._costs.cost(removed), self._open
        left = Counts(1 - int(removed.sum()) / self._channels, cost.macs, cost.parameters)
        self._open = [(budget, limit) for budget, limit in self._budgets if budget.count(left) > limit] or self._budgets
        return self._open != before


def rescored_order(
    prunable: PrunableModel,
    importance: Importance,
    rank: Callable[[list[Candidate], Tensor], Order],
    enough: Callable[[Tensor, float], bool],
    progress: Callable[[float], None],
    repair: Callable[[nn.Module, Tensor], None],
) -> Order:
    """Prune a copy of the model step by step, scoring again after every step, and return the order of all steps.

    `rank` orders candidates, given the removed channels, `(channels,)` of bool; `enough` tells whether these, and their share
    of the units, meet every budget; `repair` repairs a model, given its removed channels, before it is scored again.
    """
    settings = prunable.settings
    scout = build_prunable(copy_of(prunable.model), prunable.inputs, prunable.forward_fn, settings, importance)
    first = candidates_of(scout, importance)
    number_of = {_first_channel(candidate.coupling): number for number, candidate in enumerate(first)}
    total = sum(len(candidate.units) for candidate in first)
    step = max(1, int(total * (settings.rescore or 1.0)))
    gone: list[list[int]] = [[] for _ in first]
    steps: list[int] = []
    candidates = first
    while True:
        order = rank(candidates, scout.channels.removed)
        taken = order.steps[:step]
        numbers = [number_of[_first_channel(candidate.coupling)] for candidate in candidates]
        steps += [numbers[position] for position in taken.tolist()]
        groups = []
        for position, count in enumerate(torch.bincount(taken, minlength=len(candidates)).tolist()):
            if count:
                candidate = candidates[position]
                gone[numbers[position]] += candidate.units[:count].tolist()
                groups.append(scout.graph.group_of(candidate.coupling, candidate.units[:count]))
        scout.graph.prune_together(groups)
        progress(len(steps) / total)
        so_far = _order_of(prunable, first, gone, steps)
        share = sum(so_far.counts(len(so_far))) / total
        if enough(so_far.removed(len(so_far), prunable.channels.removed), share) or len(order) <= step:
            return so_far
        repair(scout.model, scout.channels.removed)
        candidates = candidates_of(scout, importance)


def _first_channel(coupling: DataFlowCoupling) -> int:
    """Identifies a coupling in all copies of a model."""
    return int(coupling.blocks[0, 0])


def _order_of(prunable: PrunableModel, first: list[Candidate], gone: list[list[int]], steps: list[int]) -> Order:
    """The units removed from a copy so far, in terms of the original model: those of each coupling come first, in their order."""
    couplings = {_first_channel(coupling): coupling for coupling in prunable.graph.couplings}
    candidates = []
    for candidate, own in zip(first, gone, strict=True):
        taken = torch.tensor(own, dtype=torch.long)
        units = torch.cat([taken, candidate.units[~torch.isin(candidate.units, taken)]])
        coupling = couplings[_first_channel(candidate.coupling)]
        candidates.append(Candidate(coupling, units, torch.arange(len(units)).double(), candidate.keep))
    return Order(candidates, torch.tensor(steps, dtype=torch.long), prunable.settings.round_to)
