"""What accelerate does: devices, precision, and several processes that train one model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.finetuning.settings import FinetuneError
from dfpc_plugin.require import require

T = TypeVar("T")


class Engine:
    """One accelerator, and what the processes have to agree on; the `main` one writes files and cuts."""

    def __init__(self, accelerator: Any) -> None:
        """Use `accelerator`."""
        self.accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.processes: int = accelerator.num_processes
        self.main: bool = accelerator.is_main_process
        self.device: torch.device = accelerator.device
        self._utils = require("accelerate.utils", "accelerate", "finetune")

    def summed(self, values: Tensor) -> Tensor:
        """Add up over the processes; the result is on the CPU."""
        return self.accelerator.reduce(values.to(self.device), "sum").cpu()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the main one's tensors, such as the buffers of batch norms, which follow each one's own images."""
        if self.processes == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(self._utils.broadcast(tensor.detach().to(self.device, copy=True)))

    def agreed(self, decide: Callable[[], T]) -> T:
        """Let the main process decide, and tell the others; if it fails, all fail, the others with a FinetuneError."""
        told: list[Any] = [None, None]
        failure: DFPCError | None = None
        if self.main:
            try:
                told[0] = decide()
            except DFPCError as error:
                failure, told[1] = error, str(error)
        self._utils.broadcast_object_list(told)
        if failure is not None:
            raise failure
        if told[1] is not None:
            raise FinetuneError(told[1])
        return told[0]


@contextlib.contextmanager
def engine_for(mixed_precision: str) -> Iterator[Engine]:
    """Yield an engine; accelerate's state in this process is afterwards what it was.

    Raises:
        FinetuneError: This device cannot do that precision, or the process has an accelerator with another one.
        MissingDependencyError: accelerate is not installed.
    """
    accelerate = require("accelerate", "accelerate", "finetune")
    state = accelerate.state.AcceleratorState
    with contextlib.ExitStack() as undo:
        if not state._shared_state:  # accelerate has no public way to tell
            undo.callback(state._reset_state)  # or the next run in this process could have no other precision
        try:
            accelerator = accelerate.Accelerator(mixed_precision=mixed_precision, rng_types=[])
        except ValueError as error:
            raise FinetuneError(
                f"accelerate cannot train with mixed_precision={mixed_precision!r} here: {error} Choose another one."
            ) from error
        undo.callback(accelerator.free_memory)
        yield Engine(accelerator)
