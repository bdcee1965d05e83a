"""What accelerate does: devices, precision, and several processes that train one model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.finetuning.errors import FinetuneError
from dfpc_plugin.require import require

__all__ = ["Engine", "Student", "engine_for"]

T = TypeVar("T")


class Student(nn.Module):
    """A model as accelerate may wrap and patch it, which leaves the model itself alone."""

    def __init__(self, model: nn.Module) -> None:
        """Call `model`."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Call the model."""
        return self.model(images)


class Engine:
    """One accelerator, and what the processes have to agree on.

    Attributes:
        accelerator: accelerate's.
        rank: The number of this process.
        processes: How many there are.
        main: Whether this one writes files and cuts.
        device: Where this one trains.
    """

    def __init__(self, accelerator: Any) -> None:
        """Use `accelerator`."""
        self.accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.processes: int = accelerator.num_processes
        self.main: bool = accelerator.is_main_process
        self.device: torch.device = accelerator.device
        self._utils = require("accelerate.utils", "accelerate", "finetune")

    def prepare(
        self, model: nn.Module, optimiser: Optimizer, loader: DataLoader[Any]
    ) -> tuple[nn.Module, Any, DataLoader[Any]]:
        """Return the model, wrapped, with its optimiser and this process's share of the loader."""
        return self.accelerator.prepare(Student(model), optimiser, loader)

    def release(self) -> None:
        """Forget what was prepared."""
        self.accelerator.free_memory()

    def summed(self, values: Tensor) -> Tensor:
        """Add up over the processes; the result is on the CPU."""
        if self.processes == 1:
            return values.cpu()
        return self.accelerator.reduce(values.to(self.device), "sum").cpu()

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.accelerator.wait_for_everyone()

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the main one's buffers: those of batch norms follow each process's own images."""
        self._share(model.buffers())

    def share_state(self, model: nn.Module) -> None:
        """Give all processes the main one's parameters and buffers."""
        self._share([*model.parameters(), *model.buffers()])

    def _share(self, tensors: Any) -> None:
        if self.processes == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(self._utils.broadcast(tensor.detach().to(self.device, copy=True)))

    def agreed(self, decide: Callable[[], T]) -> T:
        """Let the main process decide, and tell the others; if it fails, all fail, the others with a FinetuneError."""
        if self.processes == 1:
            return decide()
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
    state = require("accelerate.state", "accelerate", "finetune").AcceleratorState
    found = bool(state._shared_state)  # accelerate has no public way to tell
    try:
        accelerator = accelerate.Accelerator(mixed_precision=mixed_precision, rng_types=[])
    except ValueError as error:
        if not found:
            state._reset_state()
        raise FinetuneError(
            f"accelerate cannot train with mixed_precision={mixed_precision!r} here: {error} Choose another one."
        ) from error
    engine = Engine(accelerator)
    try:
        yield engine
    finally:
        engine.release()
        if not found:
            state._reset_state()  # or the next run in this process could have no other precision
