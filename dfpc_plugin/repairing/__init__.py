"""Repair after pruning: from bias correction without data to least squares on a handful of images."""

from dfpc_plugin.repairing.job import RepairJob
from dfpc_plugin.repairing.methods import METHODS
from dfpc_plugin.repairing.repair import repair
from dfpc_plugin.repairing.report import LayerRepair, RepairResult
from dfpc_plugin.repairing.settings import Method, RepairMethod, RepairOptions, RepairSettings
from dfpc_plugin.repairing.synthesis import SyntheticImages, synthesise

__all__ = [
    "METHODS",
    "LayerRepair",
    "Method",
    "RepairJob",
    "RepairMethod",
    "RepairOptions",
    "RepairResult",
    "RepairSettings",
    "SyntheticImages",
    "repair",
    "synthesise",
]
