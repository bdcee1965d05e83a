"""Torch-Pruning's other pruners on couplings found by data flow."""

from __future__ import annotations

from collections.abc import Iterable

import torch_pruning as tp

from dfpc_plugin.host.group import DataFlowGroup
from dfpc_plugin.host.pruner import DFPCPruner


class _Regularising(DFPCPruner):
    """For pruners with a `regularize` method, which index weights by the items of `_groups`."""

    @property
    def _groups(self) -> list[DataFlowGroup]:
        return self._own_groups

    @_groups.setter
    def _groups(self, groups: Iterable[DataFlowGroup]) -> None:
        self._own_groups = [group.by_weight() for group in groups]


def with_data_flow(pruner_class: type[tp.pruner.BasePruner]) -> type[DFPCPruner]:
    """Make another pruner of Torch-Pruning, such as `tp.pruner.GroupNormPruner`, work on couplings found by data flow.

    Returns:
        A subclass of `pruner_class` and of `DFPCPruner` that takes the arguments of `pruner_class`.
    """
    if issubclass(pruner_class, DFPCPruner):
        return pruner_class
    # In this order the pruner's own constructor runs first, and its super() is DFPCPruner.
    bases = (pruner_class, _Regularising)
    return type(f"DataFlow{pruner_class.__name__}", bases, {"__doc__": pruner_class.__doc__})
