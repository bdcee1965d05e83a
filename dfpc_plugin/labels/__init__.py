"""The label engine: a model, run once on tensors that know which channel every entry belongs to."""

from __future__ import annotations

from dfpc_plugin.labels import rules
from dfpc_plugin.labels.run import LabelRun, run_labels
from dfpc_plugin.labels.sizes import Attribute, TracedInt
from dfpc_plugin.labels.stated import Stated
from dfpc_plugin.labels.table import AxisSize, LabelTable, Owner, Rows, Scaling, Sized

__all__ = [
    "Attribute", "AxisSize", "LabelRun", "LabelTable", "Owner", "Rows", "Scaling", "Sized", "Stated", "TracedInt", "rules",
    "run_labels",
]
