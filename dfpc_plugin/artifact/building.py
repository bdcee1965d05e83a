"""Build the unpruned model that a saved one is made from, and leave no trace of that in the process."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dfpc_plugin.artifact.reading import ArtifactError
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.interrupts import undone
from dfpc_plugin.models import ModelSpec, build_model

__all__ = ["BuildLimit", "Factory", "built", "unpruned"]

_building = threading.RLock()
Factory = Callable[[], nn.Module]
"""Builds the unpruned model, a new one at every call."""


def unpruned(spec: ModelSpec) -> tuple[Factory, Factory]:
    """Functions that build the model of `spec`: with random weights, and without any, on the meta device."""
    return lambda: build_model(spec), lambda: build_model(spec, meta=True)


def built(factory: Factory, limit: BuildLimit | None = None) -> nn.Module:
    """Call a factory; random states, default dtype, device and gradient mode are left as they were, and do not matter.

    Raises:
        ArtifactError: It fails, returns no model, or costs more than `limit`.
    """
    with _undisturbed(), limit or contextlib.nullcontext():
        try:
            model = factory()
        except Exception as error:  # whatever somebody's constructor raises
            if limit is not None and limit.reached is not None:
                raise limit.reached from error
            raise ArtifactError(
                f"the unpruned model cannot be built: {str(error).rstrip('.') or type(error).__name__}"
            ) from error
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"the factory returned a {type(model).__name__}, and a model is wanted")
    return model


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what constructors read and change of the process."""
    with _building:  # torch has one default dtype for all threads
        dtype = torch.get_default_dtype()
        with undone(lambda: torch.set_default_dtype(dtype)), generators_kept():
            torch.set_default_dtype(torch.float32)
            with torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
                yield


_OPERATORS_PER_TENSOR = 100
_OPERATORS = 5_000
_MEMORY_PER_BYTE = 256
_MEMORY = 2**29


class BuildLimit(TorchDispatchMode):
    """Ends the construction of a model that takes far more operators or memory than its saved tensors can be the rest of.

    Initialisers and position tables are operators, so a constructor that loops over a huge option meets the limit on their
    number; models of timm and torchvision take up to 45 for a tensor. Tensors on the meta device take no memory.

    Attributes:
        reached: What was raised; a constructor may catch it.
    """

    def __init__(self, tensors: int, size: int) -> None:
        """Allow what a model may need of which `tensors` tensors of `size` bytes in all are saved."""
        super().__init__()
        self.reached: ArtifactError | None = None
        self._operators = _OPERATORS + _OPERATORS_PER_TENSOR * tensors
        self._memory = _MEMORY + _MEMORY_PER_BYTE * size

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run an operator, and count it and what it returns; raise an ArtifactError at a limit."""
        kwargs = kwargs or {}
        self._operators -= 1
        if func is torch.ops.aten.unbind.int:  # a loop over a tensor makes one of every row before it uses the first
            self._require(args[0].shape[args[1] if len(args) > 1 else 0] <= self._operators)
        names = [argument.name for argument in func._schema.arguments[:1]]
        on_cpu = getattr(kwargs.get("device"), "type", "cpu") != "meta"
        if names == ["size"] and on_cpu:  # it would be filled before its size is seen
            self._require(math.prod(args[0]) <= self._memory)
        result = func(*args, **kwargs)
        view = any(value.alias_info is not None for value in func._schema.returns)  # of memory that it was given
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_meta and not func._schema.is_mutable and not view:
                self._memory -= tensor.nbytes
        self._require(self._memory >= 0 and self._operators >= 0)
        return result

    def require_memory(self, outline: nn.Module) -> None:
        """Raise an ArtifactError if a model, which is on the meta device, takes too much memory elsewhere."""
        self._require(sum(tensor.nbytes for tensor in (*outline.parameters(), *outline.buffers())) <= self._memory)

    def _require(self, allowed: bool) -> None:
        if not allowed:
            self.reached = ArtifactError(
                "the unpruned model that it names takes far more memory or time than one needs of which so little is saved; if you "
                "trust the file, pass a factory that builds it"
            )
            raise self.reached
