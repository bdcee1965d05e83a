"""Budgets that can be counted: whether they hold, and the shortest length at which they do."""

from __future__ import annotations

from torch import Tensor

from dfpc_plugin.cost import Cost, CostModel
from dfpc_plugin.selection.budget_kinds import Counted, Counts, Removed
from dfpc_plugin.selection.order import Order, shortest
from dfpc_plugin.selection.target import BUDGETS, Target, TargetError


def keeps_budgets(target: Target, costs: CostModel, removed: Tensor, ratio: float) -> bool:
    """Tell whether the counted budgets hold without `removed` channels, `(channels,)` of bool, a share `ratio` of units."""
    now, full = _counts(costs.cost(removed), ratio), _counts(costs.full, 0.0)
    return all(budget.holds(value, now, full) for _, budget, value in target.given(Counted))


def _counts(cost: Cost, ratio: float) -> Counts:
    return Counts(1 - ratio, cost.macs, cost.parameters)


def length_for_budgets(order: Order, costs: CostModel, removed: Tensor, target: Target, gone: int = 0) -> int:
    """Return the shortest length of an order at which the counted budgets hold.

    `removed` channels, `(channels,)` of bool, and `gone` units are removed already. Raises TargetError if removing everything
    that can be removed is not enough.
    """

    def ratio(length: int) -> float:
        return (gone + sum(order.counts(length))) / (gone + order.total)

    length = shortest(lambda k: keeps_budgets(target, costs, order.removed(k, removed), ratio(k)), len(order))
    if length is None:
        full = _counts(costs.full, 0.0)
        least = _counts(costs.cost(order.removed(len(order), removed)), ratio(len(order)))
        left: list[str] = []
        gone_too: list[str] = []
        for budget in BUDGETS.values():
            if isinstance(budget, Counted):
                said = gone_too if isinstance(budget, Removed) else left
                said.append(f"{budget.reached(full, least):.1%} of the {budget.unit}")
        raise TargetError(
            f"The target {target} cannot be reached: after removing everything that can be removed, "
            f"{' and '.join(left)} are left, and {' and '.join(gone_too)} are removed. Ask for less, or allow more with max_ratio, "
            f"{'min_channels and ignored_layers' if order.round_to is None else 'min_channels, ignored_layers and a smaller round_to'}. "
            f"The model is as it was."
        )
    return length
