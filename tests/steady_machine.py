"""A machine that takes as long as the parameters of a model say, so that no test depends on the load of the real one."""

from __future__ import annotations

import random
from typing import Any

from dfpc_plugin.latency import Latency, LatencySettings


class SteadyMachine(LatencySettings):
    """Takes a fixed time, and some for every parameter; predictions know nothing of the former.

    Attributes:
        fixed: Seconds that every model takes.
        jitter: Standard deviation of a round, as a share of its time.
    """

    fixed, jitter = 0.1, 0.0

    def measure(self, models: Any, example_inputs: Any, progress: Any = None) -> dict[str, Latency]:
        draw = random.Random(0)
        took = {name: self.fixed + 1e-3 * sum(p.numel() for p in model.parameters()) for name, model in models.items()}
        return {
            name: Latency(tuple(seconds * (1 + self.jitter * draw.gauss(0, 1)) for _ in range(9)), 1)
            for name, seconds in took.items()
        }


class RealForwards(SteadyMachine):
    """Runs the models as the real one does, and says what the steady machine says."""

    def measure(self, models: Any, example_inputs: Any, progress: Any = None) -> dict[str, Latency]:
        LatencySettings.measure(self, models, example_inputs, progress)
        return super().measure(models, example_inputs)
