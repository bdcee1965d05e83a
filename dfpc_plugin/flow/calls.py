"""What a call of torch does besides computing: which dtype comes out, what it changes, and of what it is a view."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from dfpc_plugin.flow.metadata import CASTS
from dfpc_plugin.flow.registry import Rule
from dfpc_plugin.flow.tensor import FlowTensor, View
from dfpc_plugin.flow.tree import tensors

__all__ = ["in_place", "is_view", "result_dtype", "views"]


def result_dtype(
    func: Callable[..., Any], flows: list[FlowTensor], args: tuple, kwargs: dict[str, Any]
) -> torch.dtype:
    """What dtype the model will see: the one it asks for, or the promotion of its data's."""
    name = getattr(func, "__name__", "")
    if name in CASTS:
        return CASTS[name]
    asked = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
    if asked:
        return asked[0]
    if name in ("to", "type_as") and len(args) > 1 and isinstance(args[1], torch.Tensor):
        return args[1].dtype
    dtype = functools.reduce(torch.promote_types, [flow.dtype for flow in flows])
    if not dtype.is_floating_point:  # token ids: an embedding's result has the dtype of its weights
        for tensor in tensors((args, kwargs)):
            dtype = tensor.dtype if tensor.is_floating_point() else dtype
    return dtype


def is_view(rule: Rule, target: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Tell whether a view operator's result shows `target`: indexing by tensors or lists copies."""
    if not rule.view or not isinstance(target, FlowTensor) or tensors((args[1:], kwargs)):
        return False
    index = args[1] if rule.function.__name__ == "getitem" else ()
    return not any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,)))


def views(
    rule: Rule,
    result: Any,
    base: FlowTensor,
    args: tuple,
    kwargs: dict[str, Any],
    wrap: Callable[[torch.Tensor, View], FlowTensor],
) -> Any:
    """Wrap the results of a view operator so that they follow their base."""

    def take(bound: torch.Tensor, position: int | None = None) -> torch.Tensor:
        taken = rule.function(bound, *args, **kwargs)
        return taken if position is None else taken[position]

    if isinstance(result, torch.Tensor):
        return wrap(result, View(base, take))
    parts = [wrap(part, View(base, functools.partial(take, position=n))) for n, part in enumerate(result)]
    return tuple(parts) if isinstance(result, tuple) else parts


def in_place(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> bool:
    """Tell whether `func` changes its first argument, by torch's own naming: add_, __iadd__, __setitem__, inplace=True."""
    name = getattr(func, "__name__", "")
    if name == "__setitem__":
        return True
    if name.startswith("__i") and hasattr(torch.Tensor, f"__{name[3:]}"):
        return True
    if name.endswith("_") and not name.endswith("__"):
        return True
    return bool(kwargs.get("inplace", False))
