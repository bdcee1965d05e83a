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
from dfpc_plugin.saliency import Ranking, Saliency, bgsc

__version__ = "0.1.0"

__all__ = [
    "Convention",
    "DFPCImportance",
    "DFPCPruner",
    "DataFlowCoupling",
    "DataFlowGraph",
    "ImportanceRanking",
    "LayerContext",
    "LayerCoupling",
    "MissingOperator",
    "Ranking",
    "Saliency",
    "bgsc",
    "find_couplings",
    "missing_operators",
    "registered_rules",
    "rule",
    "rule_scope",
]
