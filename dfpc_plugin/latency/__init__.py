"""Latency: measured side by side, and predicted from measured layers."""

from dfpc_plugin.latency.measure import LatencySettings, measure_latency
from dfpc_plugin.latency.predict import FAST_MULTIPLE, LatencyModel
from dfpc_plugin.latency.turns import BUSY, FEWEST_ROUNDS, Latency, LatencyError, speedup_note

__all__ = [
    "BUSY",
    "FAST_MULTIPLE",
    "FEWEST_ROUNDS",
    "Latency",
    "LatencyError",
    "LatencyModel",
    "LatencySettings",
    "measure_latency",
    "speedup_note",
]
