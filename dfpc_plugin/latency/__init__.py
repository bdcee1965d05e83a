"""Latency: measured side by side, and predicted from measured layers."""

from dfpc_plugin.latency.measure import BUSY, FEWEST_ROUNDS, Latency, LatencyError, measure_latency, speedup_note
from dfpc_plugin.latency.predict import FAST_MULTIPLE, LatencyModel
from dfpc_plugin.latency.settings import LatencySettings

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
