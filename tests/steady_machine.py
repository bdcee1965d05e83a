"""A machine that takes as long as the parameters of a model say, so that no test depends on the load of the real one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from torch import nn

from dfpc_plugin.latency import Latency, LatencySettings

measured_by_the_clock = LatencySettings.measure


def steady_latencies(models: Mapping[str, Any], fixed: float = 0.1, jitter: float = 0.0) -> dict[str, Latency]:
    """Take a fixed time (seconds), and a millisecond for every parameter; `jitter` is a standard deviation, as a share."""
    draw = random.Random(0)
    took = {name: fixed + 1e-3 * sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    return {
        name: Latency(tuple(seconds * (1 + jitter * draw.gauss(0, 1)) for _ in range(9)), 1)
        for name, seconds in took.items()
    }


class SteadyMachine(LatencySettings):
    """Runs nothing; predictions know nothing of the fixed time, which every model takes."""

    fixed, jitter = 0.1, 0.0

    def measure(self, models: Any, example_inputs: Any, progress: Any = None) -> dict[str, Latency]:
        return steady_latencies(models, self.fixed, self.jitter)


class RealForwards(LatencySettings):
    """Runs the models as the real one does, and says what the steady machine says."""

    def measure(self, models: Any, example_inputs: Any, progress: Any = None) -> dict[str, Latency]:
        measured = measured_by_the_clock(self, models, example_inputs, progress)
        modules = all(isinstance(model, nn.Module) for model in models.values())
        return steady_latencies(models) if modules else measured
