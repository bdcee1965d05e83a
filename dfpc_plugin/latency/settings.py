"""Settings of a latency measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfpc_plugin.arguments import named_settings
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.latency.measure import Forwards, Latency, LatencyError, Threads, measure_latency
from dfpc_plugin.plain_data import Checked, Count, Positive
from dfpc_plugin.runtimes import runtime_of
from dfpc_plugin.tracing.tree import map_tensors
from dfpc_plugin.wrappers import HoldsModel


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
        return measure_latency(
            models,
            self.batched(example_inputs),
            threads=self.used_threads,
            min_run_time=self.min_run_time,
            warmup=self.warmup,
            forwards=self.forwards,
            runtime=self.runtime,
            progress=progress,
        )

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
