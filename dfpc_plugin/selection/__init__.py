"""Which channels to prune: rankings of units, and how many of them a budget needs."""

from __future__ import annotations

from dfpc_plugin.selection.budget_kinds import Budget, Counted, Timed
from dfpc_plugin.selection.candidate import Candidate, keep_at_least
from dfpc_plugin.selection.order import Order, by_saliency, by_saliency_per_cost, rounded, shortest
from dfpc_plugin.selection.target import BUDGETS, Target, TargetError, meets, stated
from dfpc_plugin.selection.within_budget import keeps_budgets, length_for_budgets

__all__ = [
    "BUDGETS",
    "Budget",
    "Candidate",
    "Counted",
    "Order",
    "Target",
    "TargetError",
    "Timed",
    "by_saliency",
    "by_saliency_per_cost",
    "keep_at_least",
    "keeps_budgets",
    "length_for_budgets",
    "meets",
    "rounded",
    "shortest",
    "stated",
]
