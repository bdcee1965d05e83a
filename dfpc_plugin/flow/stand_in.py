"""Tensors that stand in for data: shape, dtype and device, but no storage.

Every operation on one reaches `__torch_function__`, hence its pass and a rule; what slips below the Python API reaches
`__torch_dispatch__`, which raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.flow.metadata import METADATA
from dfpc_plugin.flow.tree import tensors
from dfpc_plugin.preserve import unwatched

__all__ = ["StandIn"]


class StandIn(torch.Tensor):
    """Base of what a model's forward sees instead of its data; `run` is the pass that it belongs to."""

    run: Any

    @classmethod
    def metadata(cls, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Answer a question that shape, dtype and device answer."""
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Send every operation on data to the rules of its pass."""
        kwargs = kwargs or {}
        if func in METADATA:
            return cls.metadata(func, args, kwargs)
        stand_ins = [tensor for tensor in tensors((args, kwargs)) if isinstance(tensor, StandIn)]
        return unwatched(stand_ins[0].run.call, func, args, kwargs, stand_ins)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse whatever got past the Python API: there is no storage to compute with."""
        raise DFPCError(
            f"{func} reached a data-flow tensor below torch's Python API (a compiled extension or a custom C++ "
            f"operator); wrap the call in a Python function that hands over to torch.overrides.handle_torch_function "
            f"and register a rule for it with @dfpc_plugin.rule."
        )
