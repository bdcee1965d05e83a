"""Couplings: sets of channels that can only be pruned together, in every parameter they pass through."""

from __future__ import annotations

from dfpc_plugin.couplings.collection import Couplings
from dfpc_plugin.couplings.coupling import DataFlowCoupling, Slice
from dfpc_plugin.couplings.find import CouplingMap, find_couplings, map_couplings, prunable_share

__all__ = ["CouplingMap", "Couplings", "DataFlowCoupling", "Slice", "find_couplings", "map_couplings", "prunable_share"]
