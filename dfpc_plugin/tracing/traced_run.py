"""One run of a model's forward on proxies: each operation goes to its operator's record once, for all analyses."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dfpc_plugin.errors import DFPCError, MissingOperator, RuleError, UnsupportedOperatorError, ValueDependentError
from dfpc_plugin.tracing.calls import Call, in_place, on_shapes
from dfpc_plugin.tracing.constants import (
    WrittenTensors,
    computed,
    evaluated,
    keep_values,
    ordinary,
    origins_of,
    shaped_constant,
)
from dfpc_plugin.tracing.names import ModelNames
from dfpc_plugin.tracing.operator import CONSTANTS, VALUES, Operator, find_operator, function_name
from dfpc_plugin.tracing.proxy import Proxy, shape_of
from dfpc_plugin.tracing.script import interpret, is_scripted
from dfpc_plugin.tracing.tree import map_tensors, tensors

_OF_NUMPY = {"axis": "dim", "keepdims": "keepdim"}
"""NumPy's names of arguments, which PyTorch's own functions take, too."""
_PER_CHANNEL = (torch.quantize_per_channel, torch.fake_quantize_per_channel_affine)
"""Functions with an `axis` of their own."""


@dataclass(frozen=True)
class Found:
    """Bounds or variances of a result, its feed-in layers, means (None if unknown), and the curve that it is, if any."""

    bounds: Any
    sources: frozenset[str]
    means: Any = None
    curve: Any = None


class ChannelAnalysis(Protocol):
    """Tracks channels."""

    def apply(self, call: Call) -> Any:
        """Return the result as proxies with labels."""

    def leaves(self, func: Callable[..., Any], operands: list[Proxy]) -> None:
        """Note that an operator without a record reads the values of weights."""


class BoundAnalysis(Protocol):
    """Tracks bounds, or variances and means."""

    dtype: torch.dtype

    def apply(self, call: Call) -> Found:
        """Return the bounds of the result."""


class TracedRun:
    """One pass over a model, for an analysis of channels, one of bounds (of this `dtype`), or both.

    `calls` is the number of operations so far, `used` has the ids of the parameters and buffers that operators used, in the
    order of first use, `state` the proxies of all of these by id of the original, and `written` the ordinary tensors that the
    forward has written data into. With `traces_sizes`, sizes that the model reads are traced.
    """

    def __init__(self, model: nn.Module) -> None:
        """Prepare for one run of `model`, which is not changed."""
        self.names = ModelNames(model)
        self.channels: ChannelAnalysis | None = None
        self.bounds: BoundAnalysis | None = None
        self.dtype = torch.float32
        self.calls = 0
        self.state: dict[int, Proxy] = {}
        self.written = WrittenTensors(self)
        self.used: dict[int, None] = {}
        self.traces_sizes = False
        self._missing: dict[str, dict[str, None]] = defaultdict(dict)
        self._muted = 0
        self._composing: list[Callable[..., Any]] = []
        self._depth = 0

    @property
    def busy(self) -> bool:
        """Whether an operation is being carried out, so that what happens is not the forward's own code."""
        return self._depth > 0

    @property
    def missing(self) -> tuple[MissingOperator, ...]:
        """Operators without a record so far."""
        return tuple(MissingOperator(name, tuple(callers)) for name, callers in self._missing.items())

    def input(self, tensor: Tensor) -> Tensor:
        """Return the proxy of an example input.

        Boolean masks are returned unchanged. Integers are data with known values, as given by the user.
        """
        if tensor.dtype == torch.bool:
            return tensor
        known = None if tensor.is_floating_point() or tensor.is_complex() else tensor.detach()
        proxy = Proxy(tensor.shape, self, tensor.dtype, tensor.device, data=True)
        proxy.value = None if known is None or known.is_meta else lambda: known
        if self.bounds is not None:
            ones = torch.ones((), dtype=self.dtype, device=tensor.device).expand(tensor.shape)
            proxy.set_bound(ones, frozenset())
        return proxy

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """Follow channels only: the parts of a decomposed operator are no operations of the model."""
        self._muted += 1
        try:
            yield
        finally:
            self._muted -= 1

    def call(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], operands: list[Tensor]) -> Any:
        """Carry out one operation of the forward."""
        if not isinstance(func, FunctionType) and func not in _PER_CHANNEL:
            kwargs = {_OF_NUMPY.get(name, name): value for name, value in kwargs.items()}
        self._depth += 1
        try:
            return self._carry_out(func, args, kwargs, operands)
        finally:
            self._depth -= 1

    def _carry_out(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], operands: list[Tensor]) -> Any:
        proxies = [operand for operand in operands if isinstance(operand, Proxy)]
        if len(proxies) < len(operands) and (self.written or any(id(operand) in self.state for operand in operands)):
            args, kwargs = map_tensors(self.known, (args, kwargs))
            proxies = _proxies((args, kwargs))
        for proxy in proxies:
            if proxy.original is not None:
                self.used[id(proxy.original)] = None
        if func in CONSTANTS:
            return shaped_constant(self, func, args, kwargs)
        operator = find_operator(func)
        if not self._muted and any(proxy.holds_data for proxy in proxies):
            self.calls += 1
        if operator is None:
            return self._without_record(func, args, kwargs, proxies)
        if operator.kind == "composed":
            return self._composed(func, operator, args, kwargs)
        if operator.kind == "picks":  # positions are used by value
            rest, kwargs = map_tensors(_position, (args[1:], kwargs))
            args = (*args[:1], *rest)
            proxies = _proxies((args, kwargs))
            if not proxies:
                return func(*args, **kwargs)
            if any(proxy.dtype == torch.bool for proxy in proxies if not args or proxy is not args[0]):
                raise ValueDependentError(function_name(func), self.names.caller())
        call = Call(func, operator, args, kwargs, proxies)
        if call.target is not None:
            if call.data and not isinstance(call.target, Proxy):
                self._take_in(func, call.target)
                args, kwargs = map_tensors(self.known, (args, kwargs))
                call = Call(func, operator, args, kwargs, _proxies((args, kwargs)))
            return self._change(call)
        if operator.kind == "moves" and not isinstance(args[0] if args else None, Proxy) and len(args) > 1:
            return func(args[0], *map_tensors(ordinary, args[1:]), **kwargs)  # such as a cast to a proxy's dtype
        return self._result(call)

    def _composed(self, func: Callable[..., Any], operator: Operator, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run an operator's composition, which must not call the operator itself, and write in place where the operator does."""
        if func in self._composing:
            problem = "the function that it is composed of calls the operator itself"
            raise RuleError(function_name(func), self.names.caller(), problem)
        self._composing.append(func)
        try:
            result = operator.bound(*args, **{name: value for name, value in kwargs.items() if name != "out"})
        finally:
            self._composing.pop()
        target = args[0] if args and in_place(func, args, kwargs) else kwargs.get("out")
        return result if target is None or target is result else target.copy_(result)

    def known(self, tensor: Tensor) -> Tensor:
        """Return the proxy of a parameter kept in a list (recurrent layers), or of a tensor that data was written into."""
        if isinstance(tensor, Proxy):
            return tensor
        found = self.state.get(id(tensor))
        return self.written.known(tensor) if found is None else found

    def _take_in(self, func: Callable[..., Any], target: Tensor) -> None:
        """Give an ordinary tensor a proxy, as `func` writes data into it; raise DFPCError if its memory is not accessible."""
        if not self.written.add(target):
            raise DFPCError(
                f"{function_name(func)} in module '{self.names.caller() or ''}' writes data into a {type(target).__name__} of "
                f"layout {target.layout}, which cannot hold it in a pass without data; make it an ordinary dense tensor, or "
                f"pass a forward_fn that leaves this part out."
            )

    def _result(self, call: Call) -> Any:
        """Return an operator's result, with what each analysis knows of it."""
        result = None
        if self.channels is not None:
            self._muted += 1
            try:
                result = self.channels.apply(call)
            finally:
                self._muted -= 1
            if isinstance(result, Proxy):
                result = self._own(result, call)
            else:
                result = map_tensors(lambda tensor: self._own(tensor, call), result)
            if call.value is not None:  # for the result only: intermediate results of a rule have other values
                keep_values(call.value, result)
        if call.data and self.bounds is not None and not self._muted:
            result = self._with_bounds(call, result, self.bounds.apply(call))
        elif result is None:
            result = computed(self, call)
        if call.is_view:
            many = not isinstance(result, Tensor)
            for number, proxy in enumerate(result if many else [result]):
                if isinstance(proxy, Proxy):
                    proxy.set_view(call.args[0], call.taking(number if many else None))
        return result

    def _own(self, tensor: Tensor, call: Call) -> Tensor:
        """Copy a result that is an operand or a view, as rules may return these."""
        if not isinstance(tensor, Proxy):
            return tensor
        if tensor._view is not None or any(tensor is operand for operand in call.operands):
            return tensor.copy_of_labels()
        return tensor

    def _with_bounds(self, call: Call, result: Any, found: Found) -> Any:
        """Attach bounds to a result, or create the result from them."""
        if result is None and isinstance(found.bounds, Tensor):  # most operators, in a pass without channels
            result = Proxy(found.bounds.shape, self, call.dtype_of(0), found.bounds.device, data=True, value=call.value)
            result.set_bound(found.bounds, found.sources, found.means)
            result.curve = found.curve
            return result
        bounds = tensors(found.bounds)
        means: list[Any] = tensors(found.means) if found.means is not None else [None] * len(bounds)
        if result is None:
            parts = iter(range(len(bounds)))
            result = map_tensors(
                lambda bound: Proxy(bound.shape, self, call.dtype_of(next(parts)), bound.device, data=True),
                found.bounds,
            )
            if call.value is not None:
                keep_values(call.value, result)
        proxies = tensors(result)
        if [shape_of(proxy) for proxy in proxies] != [bound.shape for bound in bounds]:
            problem = (
                f"its rules disagree: {[tuple(shape_of(p)) for p in proxies]} and {[tuple(b.shape) for b in bounds]}"
            )
            raise RuleError(function_name(call.function), self.names.caller(), problem)
        for proxy, bound, mean in zip(proxies, bounds, means, strict=True):
            proxy.set_bound(bound, found.sources, mean)  # type: ignore[attr-defined]
        if found.curve is not None:
            result.curve = found.curve
        return result

    def _change(self, call: Call) -> Any:
        target = call.target
        if not isinstance(target, Proxy):
            return call.changed()
        if call.data and target is not call.args[0]:  # with out=
            return target.copy_(self._result(call))
        if not call.data and target.wild:  # change the values of a constant, which its views share
            call.changed()
            if self.channels is None:
                return target
            kept = target.value
        elif not call.data and call.value is not None:
            call.value()  # compute before the target changes
        result = self._result(call)
        slots = tuple(slot.expand(shape_of(target)) for slot in result.slots)
        target.change(result, slots)
        if not call.data and target.wild:
            target.value = kept
        elif not call.data:
            target.origins = origins_of([target, *call.operands])
        return target

    def _without_record(
        self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], proxies: list[Proxy]
    ) -> Any:
        """Interpret scripted code, compute on weights and constants, or note the operator as missing."""
        if is_scripted(func):
            return interpret(func, args, kwargs)
        known = all(proxy.value is not None for proxy in proxies)
        if known and (func in VALUES or not any(proxy.holds_data for proxy in proxies)):
            if self.channels is not None:
                self.channels.leaves(func, proxies)
            return evaluated(self, func, args, kwargs)
        if func in VALUES:
            self.stop_if_missing(f"{function_name(func)} asks for values", needs_values=True)
            raise ValueDependentError(function_name(func), self.names.caller())
        self._missing[function_name(func)][self.names.caller() or ""] = None
        try:
            shapes = on_shapes(func, args, kwargs)
        except Exception as error:
            reason = f"{function_name(func)} cannot be run on shapes alone"
            raise UnsupportedOperatorError(self.missing, stopped_by=reason) from error
        device = proxies[0].device
        return map_tensors(lambda meta: Proxy(meta.shape, self, meta.dtype, device, data=True), shapes)

    def stop_if_missing(self, reason: str, cause: BaseException | None = None, *, needs_values: bool = False) -> None:
        """Raise for the missing operators so far, if there are any."""
        if self._missing:
            raise UnsupportedOperatorError(self.missing, stopped_by=reason, needs_values=needs_values) from cause

    def forget_missing(self) -> None:
        """Forget missing operators, after a call that was only a trial."""
        self._missing.clear()

    def finish(self) -> None:
        """Raise UnsupportedOperatorError if any operator had no record; it names all of them."""
        if self._missing:
            raise UnsupportedOperatorError(self.missing)


def _position(tensor: Tensor) -> Tensor:
    """Replace a proxy by its values if they are known."""
    return tensor.value().detach() if isinstance(tensor, Proxy) and tensor.value is not None else tensor


def _proxies(tree: Any) -> list[Proxy]:
    return [tensor for tensor in tensors(tree) if isinstance(tensor, Proxy)]
