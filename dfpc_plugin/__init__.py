"""Data-free structured pruning (DFPC) for any timm or torchvision model, inside Torch-Pruning."""

import dfpc_plugin.starting  # noqa: F401  # isort: skip  before torch

from dfpc_plugin.analyses.layer_context import LayerContext
from dfpc_plugin.artifact import load_pruned, read_manifest, save_pruned
from dfpc_plugin.comparing import CompareResult, SensitivityResult, compare, sensitivity
from dfpc_plugin.coupling import LayerCoupling
from dfpc_plugin.couplings import DataFlowCoupling, find_couplings
from dfpc_plugin.data import open_images
from dfpc_plugin.errors import MissingOperator
from dfpc_plugin.evaluation import Evaluation, evaluate_model
from dfpc_plugin.exporting import OnnxExport, ProgramExport, export_onnx, export_program
from dfpc_plugin.finetuning import (
    FinetuneResult,
    FinetuneSettings,
    ScheduleResult,
    ScheduleSettings,
    finetune,
    prune_and_tune,
)
from dfpc_plugin.host import DataFlowGraph, DFPCPruner
from dfpc_plugin.importance import DFPCImportance, ImportanceRanking
from dfpc_plugin.latency import Latency, LatencySettings, measure_latency
from dfpc_plugin.models import ModelSpec, build_model
from dfpc_plugin.ops import composed, rule
from dfpc_plugin.pruning import PruneResult, prune, replay
from dfpc_plugin.repaired_importance import RepairedImportance
from dfpc_plugin.repairing import RepairResult, RepairSettings, repair
from dfpc_plugin.saliency import Ranking, Saliency, bgsc
from dfpc_plugin.selection import Target
from dfpc_plugin.trace import missing_operators
from dfpc_plugin.tracing.operator import Convention, registered_rules, rule_scope
from dfpc_plugin.workflow import Recipe, follow_recipe

__version__ = "0.1.0"

__all__ = [
    "CompareResult",
    "Convention",
    "DFPCImportance",
    "DFPCPruner",
    "DataFlowCoupling",
    "DataFlowGraph",
    "Evaluation",
    "FinetuneResult",
    "FinetuneSettings",
    "ImportanceRanking",
    "Latency",
    "LatencySettings",
    "LayerContext",
    "LayerCoupling",
    "MissingOperator",
    "ModelSpec",
    "OnnxExport",
    "ProgramExport",
    "PruneResult",
    "Ranking",
    "Recipe",
    "RepairResult",
    "RepairSettings",
    "RepairedImportance",
    "Saliency",
    "ScheduleResult",
    "ScheduleSettings",
    "SensitivityResult",
    "Target",
    "bgsc",
    "build_model",
    "compare",
    "composed",
    "evaluate_model",
    "export_onnx",
    "export_program",
    "find_couplings",
    "finetune",
    "follow_recipe",
    "load_pruned",
    "measure_latency",
    "missing_operators",
    "open_images",
    "prune",
    "prune_and_tune",
    "read_manifest",
    "registered_rules",
    "repair",
    "replay",
    "rule",
    "rule_scope",
    "save_pruned",
    "sensitivity",
]
