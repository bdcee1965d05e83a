"""What `dfpc_plugin` offers, for type checkers, and for `__init__.py`, which imports a name when it is first used."""

from .analyses.bounds import LayerContext
from .artifact import load_pruned, read_manifest, save_pruned
from .comparing import CompareResult, SensitivityResult, compare, sensitivity
from .couplings import DataFlowCoupling, find_couplings
from .data import open_images
from .errors import MissingOperator
from .evaluation import Evaluation, evaluate_model
from .exporting import Int8Export, OnnxExport, ProgramExport, export_onnx, export_program, quantize_onnx
from .finetuning import FinetuneResult, FinetuneSettings, ScheduleResult, ScheduleSettings, finetune, prune_and_tune
from .host import DataFlowGraph, DFPCPruner
from .hub import from_pretrained, push_to_hub
from .importance import DFPCImportance, ImportanceRanking
from .latency import Latency, LatencySettings, measure_latency
from .models import ModelSpec, build_model
from .ops import Convention, composed, registered_rules, rule, rule_scope
from .pruning import PruneResult, prune, replay
from .repaired_importance import RepairedImportance
from .repairing import RepairResult, RepairSettings, repair
from .saliency import LayerCoupling, Ranking, Saliency, bgsc
from .selection import Target
from .trace import missing_operators
from .workflow import Recipe, follow_recipe

__version__: str

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
    "Int8Export",
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
    "from_pretrained",
    "load_pruned",
    "measure_latency",
    "missing_operators",
    "open_images",
    "prune",
    "prune_and_tune",
    "push_to_hub",
    "quantize_onnx",
    "read_manifest",
    "registered_rules",
    "repair",
    "replay",
    "rule",
    "rule_scope",
    "save_pruned",
    "sensitivity",
]
