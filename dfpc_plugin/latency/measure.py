"""Measure the latency of several models in turns, so that their ratios are fair."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, overload

import torch
from torch import Tensor, nn

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.inputs import ExampleInputs, as_call, as_inputs, fresh, inputs_explained, is_written_to
from dfpc_plugin.plain_data import Checked, Count, Positive, within
from dfpc_plugin.preserve import evaluating, exclusive, watched
from dfpc_plugin.progress import shown_share
from dfpc_plugin.runtimes import GraphModel, Runtime, runtime_of
from dfpc_plugin.wrappers import HoldsModel, as_model

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
    """

    seconds: tuple[float, ...]
    threads: int
    runtime: str = "torch"

    def __repr__(self) -> str:
        """Show the median and interquartile range instead of every round."""
        return (
            f"Latency({1e3 * self.median:.4g} ms, interquartile range {1e3 * self.iqr:.2g} ms, {len(self.seconds)} rounds, "
            f"{self.threads} {'thread' if self.threads == 1 else 'threads'})"
        )

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


def speedup_note(before: float, after: float, speedup: float) -> str:
    """Return a sentence for a speed-up that differs, as it is written, from the ratio of the medians; else ""."""
    if f"{speedup:.2f}" == f"{before / after:.2f}":
        return ""
    return (
        "The speed-up is the median over rounds that time both models in turns, so it can differ from the ratio of the two "
        "median latencies."
    )


@overload
def measure_latency(
    models: Mapping[str, nn.Module | HoldsModel], inputs: ExampleInputs, **settings: Any
) -> dict[str, Latency]: ...


@overload
def measure_latency(models: nn.Module | HoldsModel, inputs: ExampleInputs, **settings: Any) -> Latency: ...


@checks_arguments  # type: ignore[misc]  # the overloads do not repeat the settings
def measure_latency(
    models: Mapping[str, nn.Module | HoldsModel] | nn.Module | HoldsModel,
    inputs: ExampleInputs,
    *,
    threads: int = 1,
    min_run_time: float = 1.0,
    warmup: int = 2,
    forwards: int | None = None,
    runtime: str = "torch",
    progress: Callable[[float], None] | bool | None = None,
) -> dict[str, Latency] | Latency:
    """Time one forward of each model on `inputs`, in evaluation mode and without gradients.

    All models are called by the same runtime, except graphs that are already loaded (`runtimes.GraphModel`), which have
    their own. A graph is an exported copy of the model for inputs of exactly these shapes, and runs on the CPU.

    The models take turns in short blocks, in an order that reverses every round, so that a slow or busy phase of the
    machine affects all of them alike. Each block starts with two untimed forwards. On a GPU, the clock is read when all
    work is done. Models, flags, generators and PyTorch's number of threads are restored afterwards.

    Args:
        models: Models by name; or one model or result that holds a model.
        inputs: A tensor for `model(x)`, a tuple or list for `model(*xs)`, a dict for `model(**xs)`.
        threads: Number of CPU threads.
        min_run_time: Minimum seconds to spend on each model.
        warmup: Untimed forwards of each model before the first timed one.
        forwards: Time this many forwards of each model, regardless of `min_run_time`.
        runtime: "torch", "compile" (`torch.compile`), "onnxruntime" or "openvino". Compiling and exporting are not
            timed.
        progress: Called after every round with the share of the work that is done, 0 to 1. Or True for a bar at once,
            False for none; by default as for `prune`.

    Returns:
        The latency of each model by name; for a single model, its latency.

    Raises:
        ModelFormError: `models` is not a model or a mapping of models.
        ExampleInputsError: A model does not take the inputs.
        LatencyError: There are no models, threads, time or forwards.
        RuntimeNameError: There is no such runtime.
        ExportError: A model cannot be exported for that runtime.
        MissingDependencyError: The runtime is not installed.
    """
    _Protocol(threads, min_run_time, warmup, forwards)
    named, inputs, used = _named(models), as_inputs(inputs), runtime_of(runtime)
    used.require()
    with exclusive(*named.values()), contextlib.ExitStack() as stack:
        for model in named.values():
            stack.enter_context(evaluating(model))
        calls = {name: _Call.of(used.prepared(model, inputs, threads), inputs, used) for name, model in named.items()}
        timers = {
            name: timer_class()("run()", globals={"run": call.run}, num_threads=threads) for name, call in calls.items()
        }
        stack.enter_context(used.calling())
        with contextlib.nullcontext() if used.compiles else watched():
            single = {name: _warmed_up(timers[name], warmup, model, inputs) for name, model in named.items()}
        for call in calls.values():
            call.settle()
        with shown_share(progress, "measuring latency") as tell:
            seconds = _take_turns(timers, _counts(single, min_run_time, forwards), tell)
    found = {name: Latency(seconds[name], threads, call.runtime or runtime) for name, call in calls.items()}
    return found if isinstance(models, Mapping) else found[""]


def _named(models: Any) -> dict[str, nn.Module]:
    """Models by name, or one as ""; raises ModelFormError if it is not a model, LatencyError for an empty mapping."""
    if not isinstance(models, Mapping) or any(isinstance(value, Tensor) for value in models.values()):
        return {"": as_model(models)}
    if not models:
        raise LatencyError("measure_latency needs at least one model.")
    return {name: as_model(model, f"models['{name}']") for name, model in models.items()}


@dataclass(frozen=True)
class _Protocol(Checked, error=LatencyError):
    """The checked settings of `measure_latency`."""

    threads: Threads
    min_run_time: Positive
    warmup: Count
    forwards: Forwards | None


def _warmed_up(timer: Timer, warmup: int, model: nn.Module, inputs: ExampleInputs) -> float:
    """Run the first forwards; return their mean seconds."""
    with inputs_explained(model, inputs):
        return timer.timeit(warmup).mean


@dataclass(frozen=True)
class _Call:
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
    def of(cls, model: nn.Module, inputs: ExampleInputs, runtime: Runtime) -> _Call:
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


def _counts(single: Mapping[str, float], min_run_time: float, forwards: int | None) -> dict[str, list[int]]:
    """Forwards to time in each round; a model too slow for the given time still gets a few rounds."""
    if forwards is not None:
        rounds = min(MOST_ROUNDS, forwards)
        return {name: [len(range(start, forwards, rounds)) for start in range(rounds)] for name in single}
    rounds = min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(min_run_time / (FORWARDS * max(single.values())))))
    return {name: [math.ceil(min_run_time / rounds / seconds)] * rounds for name, seconds in single.items()}


def _take_turns(
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
