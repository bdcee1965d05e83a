"""One operation of a forward: its arguments, what it changes in place, the dtype of its result, and what it views."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.tracing.operator import CASTS, Operator
from dfpc_plugin.tracing.proxy import Proxy, shape_of, value_of
from dfpc_plugin.tracing.tree import map_tensors, tensors


class Call:
    """One operation of a forward: a function as the model calls it, the operator's record, and the arguments without `out`.

    `operands` are the proxies among the arguments, `data` those that depend on data, and `target` the tensor that is changed
    in place, or None. `value` computes the actual result where all operands have values, else it is None.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        operator: Operator,
        args: tuple,
        kwargs: dict[str, Any],
        operands: list[Proxy],
    ) -> None:
        """Sort the arguments."""
        self.function, self.operator, self.args = function, operator, args
        out = kwargs.get("out")
        if out is None:
            self.target = args[0] if args and in_place(function, args, kwargs) else None
        else:
            self.target = out
            kwargs = {name: value for name, value in kwargs.items() if name != "out"}
            operands = [operand for operand in operands if operand is not out]
        self.kwargs, self.operands = kwargs, operands
        self.data = [operand for operand in operands if operand.holds_data]
        self.value: Callable[[], Any] | None = None
        known = all(operand.value is not None for operand in operands)
        if known and not (self.data and any(operand.origins for operand in operands)):
            self.value = functools.cache(self._computed)

    def changed(self) -> Any:
        """Call the function on values, to change those of its target."""
        args, kwargs = map_tensors(value_of, (self.args, self.kwargs))
        out = {} if self.target is self.args[0] else {"out": map_tensors(value_of, self.target)}
        return self.function(*args, **kwargs, **out)

    def _computed(self) -> Any:
        """The actual result; operands are not changed."""
        args, kwargs = map_tensors(lambda tensor: value_of(tensor).detach(), (self.args, self.kwargs))
        if self.target is not None and self.target is self.args[0]:
            args = (args[0].clone(), *args[1:])
        found = self.function(*args, **kwargs)
        return args[0] if found is None and self.target is not None else found  # an assignment returns nothing

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        """The dtype that the model sees; moved or selected elements keep theirs."""
        first = self.args[0] if self.args and self.operator.kind in ("moves", "picks") else None
        if isinstance(first, Proxy):
            return _asked_dtype(self.function, self.args, self.kwargs) or first.dtype
        return result_dtype(self.function, self.data or self.operands, self.args, self.kwargs)

    @property
    def named(self) -> dict[str, Any]:
        """The arguments by the names that the rule gives them, without its context."""
        names = _parameter_names(self.operator.bound)[int(self.operator.context) :]
        return dict(zip(names, self.args, strict=False)) | self.kwargs

    @functools.cached_property
    def shapes(self) -> Any:
        """The result on the meta device: its shapes and dtypes."""
        return on_shapes(self.function, self.args, self.kwargs)

    @functools.cached_property
    def device(self) -> torch.device:
        """The device of the data."""
        return (self.data or self.operands)[0].device

    def dtype_of(self, part: int) -> torch.dtype:
        """The dtype of one of several results; complex and real ones have the precision of the data."""
        special = self.operator.dtypes[part] if part < len(self.operator.dtypes) else None
        if special is torch.complex64:
            return self.dtype.to_complex()
        if special is torch.float32:
            return self.dtype.to_real()
        return special or self.dtype

    @property
    def is_view(self) -> bool:
        """Whether the result is a view of the first argument. Casts, and indexing by tensors or lists, copy."""
        target = self.args[0] if self.args else None
        if not self.operator.view or not isinstance(target, Proxy) or self.dtype != target.dtype:
            return False
        if tensors((self.args[1:], self.kwargs)):
            return False
        index = self.args[1] if self.operator.kind == "picks" else ()
        return not any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,)))

    def taking(self, part: int | None) -> Callable[[Tensor], Tensor]:
        """Return a function that takes the view, or view number `part`, from a tensor laid out like the first argument."""
        function, args, kwargs = self.operator.bound, self.args[1:], self.kwargs

        def take(laid_out: Tensor) -> Tensor:
            taken = function(laid_out, *args, **kwargs)
            return taken if part is None else taken[part]

        return take


@functools.lru_cache(maxsize=1024)
def _parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def on_shapes(function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the meta device, for shapes and dtypes."""

    def without_values(tensor: Tensor) -> Tensor:
        return torch.empty(shape_of(tensor), dtype=tensor.dtype, device="meta")

    args, kwargs = map_tensors(without_values, (args, kwargs))
    with torch.no_grad():
        return function(*args, **kwargs)


def result_dtype(func: Callable[..., Any], data: list[Proxy], args: tuple, kwargs: dict[str, Any]) -> torch.dtype:
    """The dtype that the model sees: the one it asks for, or the promoted dtype of its data."""
    asked = _asked_dtype(func, args, kwargs)
    if asked is not None:
        return asked
    dtype = functools.reduce(torch.promote_types, dict.fromkeys(tensor.dtype for tensor in data))
    if not dtype.is_floating_point:  # token ids: an embedding's result has the dtype of its weights
        given = (*args, *kwargs.values())
        for tensor in tensors(given):
            dtype = tensor.dtype if tensor.is_floating_point() else dtype
        if not dtype.is_floating_point and any(isinstance(value, float) for value in given) and dtype != torch.bool:
            return torch.get_default_dtype()
    return dtype


def _asked_dtype(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> torch.dtype | None:
    name = getattr(func, "__name__", "")
    if name in CASTS:
        return CASTS[name]
    if name in ("to", "type_as") and len(args) > 1 and isinstance(args[1], Tensor):
        return args[1].dtype
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)), None)


def in_place(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> bool:
    """Tell whether `func` changes its first argument, by torch's naming: add_, __iadd__, __setitem__, inplace=True."""
    name = getattr(func, "__name__", "")
    if name in ("__setitem__", "__set__") or (name.startswith("__i") and hasattr(torch.Tensor, f"__{name[3:]}")):
        return True
    return (name.endswith("_") and not name.endswith("__")) or bool(kwargs.get("inplace", False))
