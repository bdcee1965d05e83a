"""Time models in turns, so that their ratios are fair; and what comes of it."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import nn

from dfpc_plugin.display import counted, shapes_text
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.inputs import ExampleInputs, as_call, fresh, inputs_explained, is_written_to
from dfpc_plugin.plain_data import within
from dfpc_plugin.preserve import watched
from dfpc_plugin.runtimes import GraphModel, Runtime

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

BUSY = 0.1
"""From this noise on (interquartile range over median), a latency is reported as uncertain."""

MOST_ROUNDS = 50
FEWEST_ROUNDS = 5
Threads = Annotated[int, within(1, 4096)]
Forwards = Annotated[int, within(FEWEST_ROUNDS)]
FORWARDS = 3
"""Timed forwards per block if there is time enough, so that they outnumber the two untimed ones."""


class LatencyError(DFPCError, ValueError):
    """A latency cannot be measured in this way."""


@dataclass(frozen=True)
class Latency:
    """Seconds per forward of one model, one value per round.

    The models of one `measure_latency` call share their rounds: value i of each was measured at the same time.

    Attributes:
        seconds: Mean seconds per forward in each round.
        threads: Number of CPU threads.
        runtime: The name of the runtime, as for `measure_latency`.
        shapes: Shapes of the inputs.
    """

    seconds: tuple[float, ...]
    threads: int
    runtime: str = "torch"
    shapes: tuple[tuple[int, ...], ...] = ()

    def __repr__(self) -> str:
        """Show the median and interquartile range instead of every round."""
        return (
            f"Latency({1e3 * self.median:.4g} ms, interquartile range {1e3 * self.iqr:.2g} ms, {len(self.seconds)} rounds, "
            f"{counted(self.threads, 'thread')})"
        )

    @property
    def conditions(self) -> str:
        """What it was measured with, beside the runtime: 1x3x224x224, threads: 2."""
        return ", ".join(filter(None, [shapes_text(self.shapes), f"threads: {self.threads}"]))

    @property
    def median(self) -> float:
        """Median seconds per forward."""
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        """Interquartile range of the seconds per forward."""
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return upper - lower

    @property
    def noise(self) -> float:
        """Interquartile range over median: the relative uncertainty of the measurement."""
        return self.iqr / self.median

    def speedup_over(self, reference: Latency) -> float:
        """Median over the rounds of `reference`'s time divided by this one's; more than 1 is faster.

        Raises:
            LatencyError: The two are not from one measurement.
        """
        return statistics.median(self.ratios_over(reference))

    def ratios_over(self, reference: Latency) -> tuple[float, ...]:
        """`reference`'s time divided by this one's, round by round.

        Raises:
            LatencyError: The two are not from one measurement.
        """
        if len(self.seconds) != len(reference.seconds):
            raise LatencyError(
                "speedup_over compares models round by round; measure both in one call of measure_latency."
            )
        return tuple(theirs / ours for theirs, ours in zip(reference.seconds, self.seconds, strict=True))


def speedup_note(before: float | None, after: float | None, speedup: float | None) -> str:
    """Return a sentence for a known speed-up that differs, as it is written, from the ratio of the medians; else ""."""
    if not (before and after and speedup) or f"{speedup:.2f}" == f"{before / after:.2f}":
        return ""
    return (
        "The speed-up is the median over rounds that time both models in turns, so it can differ from the ratio of the two "
        "median latencies."
    )


def warmed_up(timer: Timer, warmup: int, model: nn.Module, inputs: ExampleInputs) -> float:
    """Run the first forwards; return their mean seconds."""
    with inputs_explained(model, inputs):
        return timer.timeit(warmup).mean


@dataclass(frozen=True)
class TimedCall:
    """The timed call of one model.

    Attributes:
        run: Runs the model once.
        settle: Called after the first run.
        runtime: The runtime of a loaded graph; None for the one of the measurement.
    """

    run: Callable[[], Any]
    settle: Callable[[], None] = lambda: None
    runtime: str | None = None

    @classmethod
    def of(cls, model: nn.Module, inputs: ExampleInputs, runtime: Runtime) -> TimedCall:
        """Make the call of a model that `runtime` has prepared."""
        if isinstance(model, GraphModel):
            return cls(model.bound(inputs), runtime=model.runtime)
        if not runtime.compiles:
            forward = _Forward(model, inputs)
        else:
            # Checks the inputs first, as nothing can be compiled while writes are watched.
            with inputs_explained(model, inputs), torch.no_grad(), watched():
                _Forward(model, inputs)()
            forward = _Forward(torch.compile(model), inputs)
        return cls(forward, forward.reuse_inputs)


class _Forward:
    """A timed forward, on copies of the inputs: one copy for all calls, or one per call if the model writes to them."""

    def __init__(self, model: Callable[..., Any], inputs: ExampleInputs) -> None:
        self._model, self._inputs, self._last = model, inputs, inputs
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def __call__(self) -> Any:
        if self._call is None:
            self._last = fresh(self._inputs)
        args, kwargs = self._call or as_call(self._last)
        return self._model(*args, **kwargs)

    def reuse_inputs(self) -> None:
        """Stop copying, unless the last call wrote to its inputs."""
        if not is_written_to(self._last, self._inputs):
            self._call = as_call(self._last)


def counts_of(single: Mapping[str, float], min_run_time: float, forwards: int | None) -> dict[str, list[int]]:
    """Forwards to time in each round; a model too slow for the given time still gets a few rounds."""
    if forwards is not None:
        rounds = min(MOST_ROUNDS, forwards)
        return {name: [len(range(start, forwards, rounds)) for start in range(rounds)] for name in single}
    rounds = min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(min_run_time / (FORWARDS * max(single.values())))))
    return {name: [math.ceil(min_run_time / rounds / seconds)] * rounds for name, seconds in single.items()}


def take_turns(
    timers: Mapping[str, Timer], counts: Mapping[str, list[int]], progress: Callable[[float], None] | None
) -> dict[str, tuple[float, ...]]:
    """Run every timer once per round; return its seconds per call, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    order = list(timers)
    rounds = len(next(iter(counts.values())))
    for index in range(rounds):
        for name in order:
            seconds[name].append(timers[name].timeit(counts[name][index]).mean)
        order.reverse()
        if progress is not None:
            progress((index + 1) / rounds)
    return {name: tuple(values) for name, values in seconds.items()}


def timer_class() -> type[Timer]:
    """Import PyTorch's timer without the warning that it logs on machines with a CUDA compiler but no GPU."""
    with errors_only("torch.utils.cpp_extension"):
        from torch.utils.benchmark import Timer
    return Timer


@contextlib.contextmanager
def errors_only(name: str | None = None) -> Iterator[None]:
    """Let the logger `name`, by default the root, log only errors for a while."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
