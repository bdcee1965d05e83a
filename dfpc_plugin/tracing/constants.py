"""Proxies of what a forward makes without data: constants, and what follows from weights and constants alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dfpc_plugin.tracing.calls import Call, in_place, on_shapes
from dfpc_plugin.tracing.metadata import VALUES
from dfpc_plugin.tracing.proxy import Proxy, Tracer, shape_of, value_of
from dfpc_plugin.tracing.sizes import TracedInt
from dfpc_plugin.tracing.tree import map_tensors, tensors

__all__ = ["SizedConstants", "computed", "evaluated", "keep_values", "ordinary", "origins_of", "shaped_constant"]

_CREATE = frozenset((torch.zeros, torch.ones, torch.full, torch.empty))


class SizedConstants(TorchFunctionMode):
    """Makes a constant of traced sizes, such as `torch.zeros(1, n, self.hidden)`, a proxy that remembers them.

    Each traced axis counts as one entry that was expanded, so that it follows the channels that it meets.
    """

    def __init__(self, run: Tracer) -> None:
        """Make proxies of `run`."""
        super().__init__()
        self._run = run

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function; look at what it is given only if it creates a constant."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in _CREATE or isinstance(result, Proxy):
            return result
        given = args[0] if args else kwargs.get("size", ())
        sizes = given if isinstance(given, list | tuple) else args
        spread = {axis: size for axis, size in enumerate(sizes) if isinstance(size, TracedInt)}
        if not spread or not result.is_floating_point() or "out" in kwargs:
            return result
        proxy = _of_value(self._run, result)
        proxy.spread = spread
        return proxy


def shaped_constant(run: Tracer, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Proxy:
    """Make a constant of the shape of data, as `x.new_zeros` does, which the forward may still write data into."""
    args, kwargs = map_tensors(ordinary, (args, kwargs))
    proxy = _of_value(run, func(*args, **kwargs))
    proxy.wild = True
    return proxy


def computed(run: Tracer, call: Call) -> Any:
    """The actual result of an operator on weights and constants."""
    if call.value is None:  # data, in a pass that follows nothing
        return map_tensors(
            lambda meta: Proxy(meta.shape, run, meta.dtype, call.device, data=True),
            on_shapes(call.function, call.args, call.kwargs),
        )
    origins = origins_of(call.operands)
    wild = all(operand.wild for operand in call.operands)

    def constant(tensor: Tensor) -> Proxy:
        proxy = _of_value(run, tensor, data=bool(call.data))
        proxy.origins, proxy.wild = origins, wild
        return proxy

    return map_tensors(constant, call.value())


def evaluated(run: Tracer, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Call an operator without a record on the values of weights and constants, on copies where it changes them."""
    values, named = map_tensors(value_of, (args, kwargs))
    if args and in_place(func, args, kwargs):  # of one tensor, or of a list of them
        changed = map_tensors(lambda tensor: tensor.detach().clone(), values[0])
        func(changed, *values[1:], **named)
        for target, value in zip(tensors(args[0]), tensors(changed), strict=True):
            if isinstance(target, Proxy):
                target.value = functools.partial(_same, value)
            else:
                target.copy_(value)
        return args[0]
    operands = [tensor for tensor in tensors((args, kwargs)) if isinstance(tensor, Proxy)]
    origins = () if func in VALUES else origins_of(operands)

    def result(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if not origins:
            return tensor
        proxy = _of_value(run, tensor)
        proxy.origins = origins
        return proxy

    return map_tensors(result, func(*values, **named))


def keep_values(value: Callable[[], Any], result: Any) -> None:
    """Let results of integers that the user gave be asked for."""
    if isinstance(result, Proxy):
        result.value = value
        return
    for number, proxy in enumerate(tensors(result)):
        proxy.value = functools.partial(_part, value, number)  # type: ignore[attr-defined]


def origins_of(operands: Sequence[Proxy]) -> tuple[Tensor, ...]:
    """The parameters that a result is computed from."""
    found = {id(origin): origin for operand in operands for origin in operand.origins}
    return tuple(found.values())


def ordinary(tensor: Tensor) -> Tensor:
    """An ordinary tensor of the same shape, dtype and device."""
    return torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(shape_of(tensor))


def _of_value(run: Tracer, tensor: Tensor, *, data: bool = False) -> Proxy:
    """A proxy whose value is known."""
    return Proxy(tensor.shape, run, tensor.dtype, tensor.device, data=data, value=functools.partial(_same, tensor))


def _same(value: Tensor) -> Tensor:
    return value


def _part(value: Callable[[], Any], number: int) -> Tensor:
    """One of several results."""
    return tensors(value())[number]
