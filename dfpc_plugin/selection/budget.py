"""Budgets that can be counted: which cuts keep them, and the shortest one that does."""

from __future__ import annotations

from torch import Tensor

from dfpc_plugin.cost import CostModel
from dfpc_plugin.selection.order import Order
from dfpc_plugin.selection.search import shortest
from dfpc_plugin.selection.target import Target, TargetError

__all__ = ["keeps_budgets", "length_for_budgets"]


def keeps_budgets(target: Target, costs: CostModel, removed: Tensor, ratio: float) -> bool:
    """Tell whether budgets of channels, MACs and parameters hold.

    Args:
        target: The budgets; others are not looked at.
        costs: What channels cost.
        removed: Channels that are removed, `(channels,)` of bool.
        ratio: The share of the units that they are.
    """
    cost, full = costs.cost(removed), costs.full
    return (
        (target.macs is None or cost.macs <= target.macs * full.macs)
        and (target.params is None or cost.parameters <= target.params * full.parameters)
        and (target.ratio is None or ratio >= target.ratio - 1e-9)
    )


def length_for_budgets(order: Order, costs: CostModel, removed: Tensor, target: Target, gone: int = 0) -> int:
    """Return how far to follow an order until the budgets that can be counted hold.

    Args:
        order: What goes first.
        costs: What channels cost.
        removed: Channels that are removed already, `(channels,)` of bool.
        target: The budgets.
        gone: How many units that is.

    Raises:
        TargetError: Removing everything that can be removed is not enough.
    """

    def ratio(length: int) -> float:
        return (gone + sum(order.counts(length))) / (gone + order.total)

    length = shortest(lambda k: keeps_budgets(target, costs, order.removed(k, removed), ratio(k)), len(order))
    if length is None:
        least = costs.cost(order.removed(len(order), removed))
        raise TargetError(
            f"The target {target} cannot be reached: after removing everything that can be removed, "
            f"{least.macs / costs.full.macs:.1%} of the MACs and {least.parameters / costs.full.parameters:.1%} of the parameters are left, and "
            f"{ratio(len(order)):.1%} of the channels are removed. Ask for less, or allow more with max_ratio, "
            f"min_channels and ignored_layers. The model is as it was."
        )
    return length
