"""Expected values through operators that move entries or average them: the operator on the expected values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dfpc_plugin.flow.registry import Rule, forms
from dfpc_plugin.flow.rules import shape
from dfpc_plugin.flow.tensor import FlowTensor, holds_data
from dfpc_plugin.flow.tree import map_tensors, tensors

__all__ = ["attach", "carried"]

_LINEAR = frozenset(
    forms(
        "mean", "sum", "avg_pool1d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool3d", "interpolate", "sub",
        "subtract", "neg",
    )
)


def carried(rule: Rule, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], flows: list[FlowTensor]) -> Any:
    """Return what `func` makes of expected values, in the structure of its result; None where some are not known.

    Args:
        rule: Its rule.
        func: The operator.
        args: What it was called with.
        kwargs: The same, by name.
        flows: The data among it.
    """
    moves = rule.function.__module__ == shape.__name__
    if not (moves or func in _LINEAR) or any(holds_data(flow) and flow.expectation is None for flow in flows):
        return None
    plain_args, plain_kwargs = map_tensors(_expected, (args, kwargs))
    return func(*plain_args, **plain_kwargs)


def attach(result: Any, expectations: Any) -> None:
    """Give data in `result` the expected values in the same places of `expectations`."""
    for flow, expectation in zip(tensors(result), tensors(expectations), strict=True):
        if isinstance(flow, FlowTensor):
            flow.expectation = _compact(expectation)


def _compact(expectation: Tensor) -> Tensor:
    """Keep one of what an expansion repeats."""
    for axis, step in enumerate(expectation.stride()):
        if step == 0 and expectation.shape[axis] > 1:
            expectation = expectation.narrow(axis, 0, 1)
    return expectation


def _expected(tensor: Tensor) -> Tensor:
    """Expected values in the shape of the data; constants are what they are."""
    if not isinstance(tensor, FlowTensor):
        return tensor.detach()
    if tensor.expectation is not None:
        return tensor.expectation.detach().expand(tensor.bound.shape)
    return tensor.bound if tensor.constant is None else tensor.constant
