"""What families of models need beyond their own forward."""

from __future__ import annotations

from dfpc_plugin.families.detection import detector_forward
from dfpc_plugin.families.registry import counting_note, data_flow_forward, register_forward, register_note, run_forward

__all__ = ["counting_note", "data_flow_forward", "detector_forward", "register_forward", "register_note", "run_forward"]
