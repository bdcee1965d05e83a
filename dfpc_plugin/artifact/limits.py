"""What building a model may cost when a file that is not trusted names it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dfpc_plugin.artifact.errors import ArtifactError

__all__ = ["BuildLimit"]

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
        """Run an operator, and count it and what it returns.

        Raises:
            ArtifactError: A limit is reached.
        """
        kwargs = kwargs or {}
        self._operators -= 1
        if func is torch.ops.aten.unbind.int:  # a loop over a tensor makes one of every row before it uses the first
            self._require(args[0].shape[args[1] if len(args) > 1 else 0] <= self._operators)
        names = [argument.name for argument in func._schema.arguments[:1]]
        if names == ["size"] and _on_cpu(kwargs):  # it would be filled before its size is seen
            self._require(math.prod(args[0]) <= self._memory)
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_meta and not func._schema.is_mutable and not _is_view(func):
                self._memory -= tensor.nbytes
        self._require(self._memory >= 0 and self._operators >= 0)
        return result

    def require_memory(self, outline: nn.Module) -> None:
        """Raise if a model, which is on the meta device, takes too much memory elsewhere.

        Raises:
            ArtifactError: It does.
        """
        self._require(sum(tensor.nbytes for tensor in (*outline.parameters(), *outline.buffers())) <= self._memory)

    def _require(self, allowed: bool) -> None:
        if not allowed:
            self.reached = ArtifactError(
                "the unpruned model that it names takes far more memory or time than one needs of which so little is saved; if you "
                "trust the file, pass a factory that builds it"
            )
            raise self.reached


def _on_cpu(kwargs: dict[str, Any]) -> bool:
    """Whether a factory function is asked for memory."""
    return getattr(kwargs.get("device"), "type", "cpu") != "meta"


def _is_view(func: Any) -> bool:
    """Whether what an operator returns is memory that it was given."""
    return any(value.alias_info is not None for value in func._schema.returns)
