"""How latency is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.latency.measure import Forwards, Latency, LatencyError, Threads, measure_latency
from dfpc_plugin.option_names import named_settings
from dfpc_plugin.plain_data import Checked, Count, Positive
from dfpc_plugin.runtimes import runtime_of
from dfpc_plugin.tracing.tree import map_tensors
from dfpc_plugin.wrappers import HoldsModel

__all__ = ["LatencySettings"]


@named_settings
@dataclass(frozen=True)
class LatencySettings(Checked, error=LatencyError):
    """A protocol of measurement.

    Attributes:
        threads: CPU threads; None for as many as PyTorch uses now.
        batch_size: Inputs at a time: the first along axis zero of every tensor, repeated; None for the example inputs as
            they are.
        min_run_time: Seconds to spend on each model, at least.
        warmup: Forwards of each model before the first one that is timed.
        forwards: Time this many forwards of each model, however long that takes.
        runtime: What runs the models: "torch", "compile" (what `torch.compile` makes of them), "onnxruntime" or "openvino".
    """

    threads: Threads | None = None
    batch_size: Count | None = None
    min_run_time: Positive = 1.0
    warmup: Count = 2
    forwards: Forwards | None = None
    runtime: str = "torch"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            LatencyError: Says which cannot be followed.
            RuntimeNameError: There is no such runtime.
        """
        super().__post_init__()
        runtime_of(self.runtime)

    @classmethod
    def paper(cls, device: torch.device | str = "cpu", threads: int | None = None) -> LatencySettings:
        """The protocol of the DFPC paper: 1000 forwards after 100, of 64 images on a CPU and of 640 on a GPU."""
        batch_size = 64 if torch.device(device).type == "cpu" else 640
        return cls(threads, batch_size, warmup=100, forwards=1000)

    def measure(
        self,
        models: Mapping[str, nn.Module | HoldsModel],
        example_inputs: ExampleInputs,
        progress: Callable[[float], None] | bool | None = None,
    ) -> dict[str, Latency]:
        """Measure models side by side; see `measure_latency`.

        Raises:
            LatencyError: Settings that cannot be followed.
        """
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
        """CPU threads of a measurement that is made now."""
        return torch.get_num_threads() if self.threads is None else self.threads

    def prepared(self, model: nn.Module, example_inputs: ExampleInputs) -> nn.Module:
        """Return what the runtime calls in place of a model, to be measured several times; see `Runtime.prepared`.

        Raises:
            DFPCError: As `measure_latency` raises.
        """
        runtime = runtime_of(self.runtime)
        runtime.require()
        return runtime.prepared(model, self.batched(example_inputs), self.used_threads)

    def batched(self, example_inputs: ExampleInputs) -> ExampleInputs:
        """Example inputs of the batch size that is measured.

        Raises:
            LatencyError: There is no batch to make larger.
        """
        example_inputs, count = as_inputs(example_inputs), self.batch_size
        if count is None:
            return example_inputs

        def enlarged(tensor: Tensor) -> Tensor:
            if not tensor.dim():
                raise LatencyError("An example input has no axis for a batch; leave batch_size out.")
            return tensor[:1].expand(count, *tensor.shape[1:]).contiguous()

        return map_tensors(enlarged, example_inputs)
