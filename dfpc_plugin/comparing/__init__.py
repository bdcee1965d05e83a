"""Compare criteria, budgets and repairs on one model, and find out how sensitive a model is to the loss of channels."""

from __future__ import annotations

from dfpc_plugin.comparing.cells import Cell, CellResult, CompareError
from dfpc_plugin.comparing.compare import compare
from dfpc_plugin.comparing.result import CompareResult
from dfpc_plugin.comparing.sensitivity import CouplingSensitivity, SensitivityResult, sensitivity

__all__ = [
    "Cell",
    "CellResult",
    "CompareError",
    "CompareResult",
    "CouplingSensitivity",
    "SensitivityResult",
    "compare",
    "sensitivity",
]
