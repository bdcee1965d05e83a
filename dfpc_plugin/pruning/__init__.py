"""Prune a model to a target; the result is a smaller model with a record of what was removed."""

from __future__ import annotations

from dfpc_plugin.pruning.prune import prune
from dfpc_plugin.pruning.replay import replay
from dfpc_plugin.pruning.result import CouplingCut, Figures, ProtectedCoupling, PruneResult
from dfpc_plugin.pruning.settings import Per, PruneSettings

__all__ = ["CouplingCut", "Figures", "Per", "ProtectedCoupling", "PruneResult", "PruneSettings", "prune", "replay"]
