"""Measure the latency of several models side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn

from dfpc_plugin.arguments import checks_arguments, named_settings
from dfpc_plugin.inputs import ExampleInputs, as_inputs, shapes_of
from dfpc_plugin.latency.turns import (
    Forwards,
    Latency,
    LatencyError,
    Threads,
    TimedCall,
    counts_of,
    take_turns,
    timer_class,
    warmed_up,
)
from dfpc_plugin.plain_data import Checked, Count, Positive
from dfpc_plugin.preserve import evaluating, exclusive, watched
from dfpc_plugin.progress import shown_share
from dfpc_plugin.runtimes import runtime_of
from dfpc_plugin.tracing.tree import map_tensors
from dfpc_plugin.wrappers import HoldsModel, as_model


@named_settings
@dataclass(frozen=True)
class LatencySettings(Checked, error=LatencyError):
    """How to measure latency.

    Attributes:
        threads: Number of CPU threads; None for as many as PyTorch uses now.
        batch_size: Batch size: the first example input is repeated; None for the example inputs as they are.
        min_run_time: Minimum seconds to spend on each model.
        warmup: Untimed forwards of each model before the first timed one.
        forwards: Time this many forwards of each model, regardless of min_run_time.
        runtime: "torch", "compile" (torch.compile), "onnxruntime" or "openvino".
    """

    threads: Threads | None = None
    batch_size: Count | None = None
    min_run_time: Positive = 1.0
    warmup: Count = 2
    forwards: Forwards | None = None
    runtime: str = "torch"

    def __post_init__(self) -> None:
        """Check the settings; raises LatencyError for the first invalid one, RuntimeNameError for an unknown runtime."""
        super().__post_init__()
        runtime_of(self.runtime)

    @classmethod
    def paper(cls, device: torch.device | str = "cpu", threads: int | None = None) -> LatencySettings:
        """The protocol of the DFPC paper: 1000 forwards after 100 of warmup, of 64 images on a CPU and 640 on a GPU."""
        batch_size = 64 if torch.device(device).type == "cpu" else 640
        return cls(threads, batch_size, warmup=100, forwards=1000)

    def measure(
        self,
        models: Mapping[str, nn.Module | HoldsModel],
        example_inputs: ExampleInputs,
        progress: Callable[[float], None] | bool | None = None,
    ) -> dict[str, Latency]:
        """Measure models side by side; arguments and errors are as for `measure_latency`."""
        if not models:
            raise LatencyError("measure_latency needs at least one model.")
        named = {name: as_model(model, f"models['{name}']" if name else "model") for name, model in models.items()}
        inputs, threads, runtime = self.batched(example_inputs), self.used_threads, runtime_of(self.runtime)
        runtime.require()
        with exclusive(*named.values()), contextlib.ExitStack() as stack:
            for model in named.values():
                stack.enter_context(evaluating(model))
            graphs = {name: runtime.prepared(model, inputs, threads) for name, model in named.items()}
            calls = {name: TimedCall.of(graph, inputs, runtime) for name, graph in graphs.items()}
            timer = timer_class()
            timers = {
                name: timer("run()", globals={"run": call.run}, num_threads=threads) for name, call in calls.items()
            }
            stack.enter_context(runtime.calling())
            with contextlib.nullcontext() if runtime.compiles else watched():
                single = {name: warmed_up(timers[name], self.warmup, model, inputs) for name, model in named.items()}
            for call in calls.values():
                call.settle()
            with shown_share(progress, "measuring latency") as tell:
                seconds = take_turns(timers, counts_of(single, self.min_run_time, self.forwards), tell)
        shapes = shapes_of(inputs)
        return {
            name: Latency(seconds[name], threads, call.runtime or self.runtime, shapes) for name, call in calls.items()
        }

    @property
    def used_threads(self) -> int:
        """The number of CPU threads of a measurement that starts now."""
        return torch.get_num_threads() if self.threads is None else self.threads

    def prepared(self, model: nn.Module, example_inputs: ExampleInputs) -> nn.Module:
        """Return what the runtime calls instead of a model, for several measurements; raises as `measure_latency`."""
        runtime = runtime_of(self.runtime)
        runtime.require()
        return runtime.prepared(model, self.batched(example_inputs), self.used_threads)

    def batched(self, example_inputs: ExampleInputs) -> ExampleInputs:
        """Return the example inputs with the batch size of the measurement.

        Raises:
            LatencyError: An input has no batch axis.
        """
        example_inputs, count = as_inputs(example_inputs), self.batch_size
        if count is None:
            return example_inputs

        def enlarged(tensor: Tensor) -> Tensor:
            if not tensor.dim():
                raise LatencyError("An example input has no axis for a batch; leave batch_size out.")
            return tensor[:1].expand(count, *tensor.shape[1:]).contiguous()

        return map_tensors(enlarged, example_inputs)


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
    settings = LatencySettings(threads, None, min_run_time, warmup, forwards, runtime)
    if isinstance(models, Mapping) and not any(isinstance(value, Tensor) for value in models.values()):
        return settings.measure(models, inputs, progress)
    return settings.measure({"": models}, inputs, progress)[""]  # type: ignore[dict-item]
