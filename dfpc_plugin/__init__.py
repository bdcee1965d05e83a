"""Data-free structured pruning (DFPC) for any timm or torchvision model, inside Torch-Pruning."""

from dfpc_plugin.coupling import LayerCoupling
from dfpc_plugin.couplings import DataFlowCoupling, find_couplings
from dfpc_plugin.flow import (
    Convention,
    LayerContext,
    MissingOperator,
    missing_operators,
    registered_rules,
    rule,
    rule_scope,
)
from dfpc_plugin.host import DataFlowGraph, DFPCPruner
from dfpc_plugin.importance import DFPCImportance, ImportanceRanking
from dfpc_plugin.latency import Latency, LatencySettings, measure_latency
from dfpc_plugin.pruning import PruneResult, prune, replay
from dfpc_plugin.repaired_importance import RepairedImportance
from dfpc_plugin.repairing import RepairResult, RepairSettings, repair
from dfpc_plugin.saliency import Ranking, Saliency, bgsc
from dfpc_plugin.selection import Target

__version__ = "0.1.0"

__all__ = [
    "Convention",
    "DFPCImportance",
    "DFPCPruner",
    "DataFlowCoupling",
    "DataFlowGraph",
    "ImportanceRanking",
    "Latency",
    "LatencySettings",
    "LayerContext",
    "LayerCoupling",
    "MissingOperator",
    "PruneResult",
    "Ranking",
    "RepairResult",
    "RepairSettings",
    "RepairedImportance",
    "Saliency",
    "Target",
    "bgsc",
    "find_couplings",
    "measure_latency",
    "missing_operators",
    "prune",
    "registered_rules",
    "repair",
    "replay",
    "rule",
    "rule_scope",
]
