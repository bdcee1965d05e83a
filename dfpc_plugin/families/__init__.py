"""What families of models need beyond what their forward tells."""

from __future__ import annotations

from dfpc_plugin.families.detection import detector_forward
from dfpc_plugin.families.registry import data_flow_forward, register_forward, run_forward

__all__ = ["data_flow_forward", "detector_forward", "register_forward", "run_forward"]
