"""Torch-Pruning's pruners and importances, on couplings found by data flow."""

from __future__ import annotations

from dfpc_plugin.host.graph import DataFlowGraph
from dfpc_plugin.host.group import DataFlowGroup
from dfpc_plugin.host.pruner import DFPCPruner, with_data_flow

__all__ = ["DFPCPruner", "DataFlowGraph", "DataFlowGroup", "with_data_flow"]
