"""Repair of what pruning broke: from constants that need no data to least squares on a handful of images."""

from __future__ import annotations

from dfpc_plugin.repairing.repair import repair
from dfpc_plugin.repairing.report import LayerRepair, RepairResult
from dfpc_plugin.repairing.settings import Method, RepairSettings
from dfpc_plugin.repairing.synthesis import SyntheticImages, synthesise

__all__ = ["LayerRepair", "Method", "RepairResult", "RepairSettings", "SyntheticImages", "repair", "synthesise"]
