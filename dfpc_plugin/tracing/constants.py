"""Proxies for tensors made without data: constants, results of weights and constants alone, and tensors that data is written into."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.preserve import has_storage, memory_address
from dfpc_plugin.tracing.calls import Call, in_place
from dfpc_plugin.tracing.operator import METADATA, VALUES
from dfpc_plugin.tracing.proxy import Proxy, Tracer, shape_of, value_of
from dfpc_plugin.tracing.sizes import TracedInt
from dfpc_plugin.tracing.tree import map_tensors, tensors

_CREATE = frozenset((torch.zeros, torch.ones, torch.full, torch.empty, torch.rand, torch.randn))
_OF_NUMBERS = frozenset((torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, torch.full))
"""Functions that read traced numbers below Python, where no cast is noticed."""


class WrittenTensors:
    """Proxies of memory that a forward has written data into, such as that of `torch.zeros(2, 8)`.

    An ordinary tensor cannot hold what an analysis knows. So at the first write its memory gets a proxy, and every tensor in that
    memory (earlier views included) counts as a view of it. The memory is not changed, and the forward keeps its ordinary tensors.
    """

    def __init__(self, run: Tracer) -> None:
        """Start without any."""
        self._run = run
        self._memory: dict[int, tuple[Tensor, Proxy]] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._memory)

    def add(self, tensor: Tensor) -> bool:
        """Give the memory of `tensor` a proxy; returns False if its memory is not accessible."""
        if not has_storage(tensor):
            return False
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        flat = tensor.detach().as_strided((count,), (1,), 0)
        proxy = Proxy(flat.shape, self._run, tensor.dtype, tensor.device, value=lambda: flat)
        self._memory[memory_address(tensor)] = flat, proxy
        return True

    def known(self, tensor: Tensor) -> Tensor:
        """Return a view of the proxy of the tensor's memory, or the tensor itself."""
        with torch._C.DisableTorchFunction():  # these are no operations of the forward
            return self._known(tensor)

    def _known(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, Proxy) or not has_storage(tensor):
            return tensor
        flat, proxy = self._memory.get(memory_address(tensor), (tensor, None))
        if proxy is None:
            return tensor
        if flat.element_size() != tensor.element_size():
            raise DFPCError(
                f"The forward reads a tensor of {tensor.dtype} from where it has written data of {flat.dtype}, which a pass "
                f"without data cannot do; convert the data with .to(...), or pass a forward_fn that leaves this part out."
            )
        layout = tensor.size(), tensor.stride(), int(tensor.storage_offset())
        value = None if proxy.holds_data else lambda: tensor
        view = Proxy(tensor.shape, self._run, tensor.dtype, tensor.device, value=value)
        view.set_view(proxy, functools.partial(_laid_out, layout), looked_at=False)
        return view


def _laid_out(layout: tuple[torch.Size, tuple[int, ...], int], memory: Tensor) -> Tensor:
    """Take a tensor from anything laid out like its memory."""
    return memory.contiguous().as_strided(*layout)


class Constants(TorchFunctionMode):
    """Handles tensors that a forward makes without data.

    A constant with traced sizes, such as `torch.zeros(1, n, self.hidden)`, becomes a proxy that remembers them. Each
    traced axis counts as expanded from one element, so it takes on the channels that it is combined with. A tensor that
    data was written into is replaced by its proxy before operators get it.
    """

    def __init__(self, run: Tracer, written: WrittenTensors) -> None:
        """Make proxies for `run`."""
        super().__init__()
        self._run, self._written = run, written

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function. Arguments are inspected only if it creates a constant or data was written somewhere."""
        kwargs = kwargs or {}
        if self._written and func not in METADATA:
            args, kwargs = map_tensors(self._written.known, (args, kwargs))
        if types == (Proxy,) and func not in _CREATE and not torch._C._len_torch_function_stack():
            return Proxy.__torch_function__(func, types, args, kwargs)  # a short cut to the same call
        result = func(*args, **kwargs)
        if func in _OF_NUMBERS:
            for number in (*args, *kwargs.values()):
                if isinstance(number, TracedInt):
                    int(number)  # notes the cast
        if func not in _CREATE or isinstance(result, Proxy) or not result.is_floating_point() or "out" in kwargs:
            return result
        if func is torch.empty:
            result.zero_()  # unwritten elements count as constant
        spread = _traced_axes(_sizes(args, kwargs))
        if not spread:
            return result
        proxy = _of_value(self._run, result)
        proxy.spread = spread
        return proxy


def _sizes(args: tuple, kwargs: dict[str, Any]) -> Sequence[Any]:
    given = args[0] if args else kwargs.get("size", ())
    return given if isinstance(given, list | tuple) else args


def _traced_axes(sizes: Sequence[Any]) -> dict[int, int]:
    return {axis: size for axis, size in enumerate(sizes) if isinstance(size, TracedInt)}


def shaped_constant(run: Tracer, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """Make a constant in the shape of data, as `x.new_zeros` does. The forward may write data into it.

    The value to fill it with may be a tensor: a constant, or data, which is then expanded.
    """
    sizes = args[0].shape if args and func.__name__.endswith("_like") else _sizes(args[1:], kwargs)
    filling = next((own for own in tensors((args[1:], kwargs)) if isinstance(own, Proxy) and own.holds_data), None)
    if filling is not None:
        return filling.expand(tuple(sizes))
    reference = map_tensors(ordinary, args[:1])
    args, kwargs = map_tensors(_known, (args[1:], kwargs))
    made = func(*reference, *args, **kwargs)
    proxy = _of_value(run, made.zero_() if "empty" in func.__name__ else made)
    proxy.wild, proxy.spread = True, _traced_axes(sizes)
    return proxy


def computed(run: Tracer, call: Call) -> Any:
    """Compute the actual result of an operator on weights and constants."""
    if call.value is None:  # data, in a pass without analyses
        return map_tensors(lambda meta: Proxy(meta.shape, run, meta.dtype, call.device, data=True), call.shapes)
    origins = origins_of(call.operands)
    wild = all(operand.wild for operand in call.operands)

    def constant(tensor: Tensor) -> Proxy:
        proxy = _of_value(run, tensor, data=bool(call.data))
        proxy.origins, proxy.wild = origins, wild
        return proxy

    return map_tensors(constant, call.value())


def evaluated(run: Tracer, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Call an operator without a record on the values of weights and constants; what it changes is copied first."""
    values, named = map_tensors(value_of, (args, kwargs))
    if args and in_place(func, args, kwargs):  # of one tensor, or of a list of them
        changed = map_tensors(lambda tensor: tensor.detach().clone(), values[0])
        func(changed, *values[1:], **named)
        for target, value in zip(tensors(args[0]), tensors(changed), strict=True):
            if isinstance(target, Proxy):
                target.value = value.detach
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
    """Attach the known values of a result to its proxies."""
    if isinstance(result, Proxy):
        result.value = value
    for number, proxy in enumerate(() if isinstance(result, Proxy) else tensors(result)):
        if isinstance(proxy, Proxy):
            proxy.value = lambda number=number: tensors(value())[number]


def origins_of(operands: Sequence[Proxy]) -> tuple[Tensor, ...]:
    """The parameters that a result is computed from."""
    found = {id(origin): origin for operand in operands for origin in operand.origins}
    return tuple(found.values())


def _known(tensor: Tensor) -> Tensor:
    """The values of a constant; an ordinary tensor if they are not known, in a pass without analyses."""
    value = value_of(tensor)
    return ordinary(value) if isinstance(value, Proxy) else value


def ordinary(tensor: Tensor) -> Tensor:
    """An ordinary tensor of zeros of the same shape, dtype and device."""
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(shape_of(tensor))


def _of_value(run: Tracer, tensor: Tensor, *, data: bool = False) -> Proxy:
    return Proxy(tensor.shape, run, tensor.dtype, tensor.device, data=data, value=lambda: tensor)
