"""Measured latency of several models, interleaved so that their ratios are fair."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.preserve import evaluating

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

__all__ = ["Latency", "LatencyError", "measure_latency"]

MOST_ROUNDS = 50
FEWEST_ROUNDS = 5
FORWARDS = 3
"""Timed forwards per block where there is time enough, so that the untimed ones do not outnumber them."""


class LatencyError(DFPCError, ValueError):
    """A measurement was asked for that cannot be made."""


@dataclass(frozen=True)
class Latency:
    """Seconds per forward of one model, one value per round.

    The models of one `measure_latency` call share their rounds: value i of each was taken within the same moment.

    Attributes:
        seconds: Mean seconds per forward in each round.
        threads: CPU threads that PyTorch used.
    """

    seconds: tuple[float, ...]
    threads: int

    @property
    def median(self) -> float:
        """Median seconds per forward."""
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        """Interquartile range of the seconds per forward: the spread of the middle half of the rounds."""
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return upper - lower

    def speedup_over(self, reference: Latency) -> float:
        """Median over the rounds of `reference`'s time divided by this one's; more than 1 is faster.

        Raises:
            LatencyError: The two do not come from one measurement.
        """
        if len(self.seconds) != len(reference.seconds):
            raise LatencyError(
                "speedup_over compares models round by round; measure both in one call of measure_latency."
            )
        pairs = zip(reference.seconds, self.seconds, strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def measure_latency(
    models: Mapping[str, nn.Module],
    inputs: ExampleInputs,
    *,
    threads: int = 1,
    min_run_time: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Latency]:
    """Time one forward of each model on `inputs`, in evaluation mode and without gradients.

    The models take turns in short blocks, in an order that reverses every round, so a machine that slows down or is
    busy for a while hurts all of them alike. Each block starts with two forwards that are not timed. Models, flags,
    generators and PyTorch's number of threads are as before afterwards.

    Args:
        models: What to time, by name.
        inputs: A tensor for `model(x)`, a tuple or list for `model(*xs)`, a dict for `model(**xs)`.
        threads: CPU threads for PyTorch.
        min_run_time: Seconds to spend on each model, at least.
        progress: Called after every round with the share of the work that is done, 0 to 1.

    Raises:
        LatencyError: No models, no threads or no time.
    """
    if not models:
        raise LatencyError("measure_latency needs at least one model.")
    if threads < 1:
        raise LatencyError(f"threads must be 1 or more, not {threads}.")
    if not (0 < min_run_time < math.inf):
        raise LatencyError(f"min_run_time must be a positive number of seconds, not {min_run_time}.")
    args, kwargs = as_call(inputs)
    timer = _timer_class()
    timers = {
        name: timer("run()", globals={"run": lambda m=model: m(*args, **kwargs)}, num_threads=threads)
        for name, model in models.items()
    }
    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode())
        return _take_turns(timers, threads, min_run_time, progress)


def _take_turns(
    timers: Mapping[str, Timer], threads: int, min_run_time: float, progress: Callable[[float], None] | None
) -> dict[str, Latency]:
    """Run every timer once per round; a model too slow for the time given still gets a few rounds."""
    single = {name: timer.timeit(1).mean for name, timer in timers.items()}
    rounds = min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(min_run_time / (FORWARDS * max(single.values())))))
    forwards = {name: math.ceil(min_run_time / rounds / seconds) for name, seconds in single.items()}
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    order = list(timers)
    for index in range(rounds):
        for name in order:
            seconds[name].append(timers[name].timeit(forwards[name]).mean)
        order.reverse()
        if progress is not None:
            progress((index + 1) / rounds)
    return {name: Latency(tuple(values), threads) for name, values in seconds.items()}


def _timer_class() -> type[Timer]:
    """Import PyTorch's timer without the warning it logs where there is a CUDA compiler and no GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils.benchmark import Timer
    finally:
        logger.setLevel(level)
    return Timer
