"""The engine: sends every operation on data to its rule, and collects who writes and who reads couplings."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dfpc_plugin.errors import DFPCError, RuleError, UnsupportedOperatorError, ValueDependentError
from dfpc_plugin.flow.calls import in_place, is_view, result_dtype, views
from dfpc_plugin.flow.layer import LayerContext, Reader, Writer
from dfpc_plugin.flow.means import attach, carried
from dfpc_plugin.flow.metadata import CONSTANTS, VALUES
from dfpc_plugin.flow.moments import settle
from dfpc_plugin.flow.names import ModelNames
from dfpc_plugin.flow.precision import full_precision
from dfpc_plugin.flow.registry import Rule, find_rule, function_name
from dfpc_plugin.flow.script import interpret, is_scripted
from dfpc_plugin.flow.tensor import FlowTensor, View, holds_data
from dfpc_plugin.flow.tree import map_tensors, tensors

__all__ = ["FlowRun", "MissingOperator"]


@dataclass(frozen=True)
class MissingOperator:
    """An operator without a rule.

    Attributes:
        function: Its name, as the model's author would write it.
        modules: Dotted paths of the modules that called it ('' is the model itself), in order of first call.
    """

    function: str
    modules: tuple[str, ...]


class FlowRun:
    """One pass over a model: dispatches operations to rules and collects who reads and who writes couplings.

    Attributes:
        writers: One entry per call of a feed-in layer, in order: its name and the bounds it produced.
        readers: One entry per call of a feed-out layer, in order: its name and the total bound on its output.
        met: Sets of feed-in layers that met entry by entry in one operator.
        calls: Number of operations on data so far.
        expected: Variances flow instead of bounds.
        arriving: In a pass over expected errors, the expected inputs of every layer where they are known, laid out as these
            are, by the layer's name.
        varying: The variances that go with them.
    """

    def __init__(self, model: nn.Module, *, expected: bool = False) -> None:
        """Prepare for one run of `model`; nothing of it is changed.

        With `expected`, variances flow instead of bounds: see `flow.moments`.
        """
        self.expected = expected
        self.dtype = _bound_dtype(model)
        self.writers: list[Writer] = []
        self.readers: list[Reader] = []
        self.met: list[frozenset[str]] = []
        self.calls = 0
        self.arriving: dict[str, torch.Tensor | None] = {}
        self.varying: dict[str, torch.Tensor] = {}
        self._widths: dict[str, int] = {}
        self._missing: dict[str, dict[str, None]] = defaultdict(dict)
        self.names = ModelNames(model)

    @property
    def missing(self) -> tuple[MissingOperator, ...]:
        """Operators met so far that have no rule."""
        return tuple(MissingOperator(name, tuple(callers)) for name, callers in self._missing.items())

    def input(self, tensor: torch.Tensor) -> torch.Tensor:
        """Turn an example input into a data-flow tensor bounded by one; masks stay what they are."""
        if tensor.dtype == torch.bool:
            return tensor
        ones = torch.ones((), dtype=self.dtype, device=tensor.device).expand(tensor.shape)
        return FlowTensor(ones, self, tensor.dtype)

    def call(
        self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], flows: list[FlowTensor]
    ) -> Any:
        """Apply the rule of `func`, unwrapping and wrapping its data-flow tensors `flows`."""
        if func in CONSTANTS:
            return self._constant(func(*map_tensors(_stand_in, args), **map_tensors(_stand_in, kwargs)))
        rule = find_rule(func)
        self.calls += 1
        if all(flow.constant is not None for flow in flows):
            return self._call_on_constants(rule, func, args, kwargs)
        if rule is not None:
            with torch.enable_grad(), full_precision(flows[0].bound.device):
                return self._apply(rule, func, args, kwargs, flows)
        if is_scripted(func):
            return interpret(func, args, kwargs)
        if func in VALUES:
            self.stop_if_missing(f"{function_name(func)} asks for values")
            raise ValueDependentError(function_name(func), self.names.caller() or "the model itself")
        return self._continue_without_rule(func, args, kwargs)

    def _constant(self, value: torch.Tensor, view: View | None = None) -> FlowTensor:
        """Wrap a constant that the forward may still write data into."""
        zeros = torch.zeros((), dtype=self.dtype, device=value.device).expand(value.shape)
        return FlowTensor(zeros, self, value.dtype, view=view, constant=value)

    def _call_on_constants(
        self, rule: Rule | None, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """Compute with the values of constants, as the model would."""
        result = func(*map_tensors(_value, args), **map_tensors(_value, kwargs))
        target = args[0] if args else None
        if isinstance(target, FlowTensor) and in_place(func, args, kwargs):
            return target
        if kwargs.get("out") is not None:
            return kwargs["out"]
        if rule is not None and isinstance(target, FlowTensor) and is_view(rule, target, args, kwargs):
            return views(rule, result, target, args[1:], kwargs, self._constant)
        return map_tensors(self._constant, result)

    def note_arrival(self, name: str, data: Any) -> None:
        """Remember what a layer is expected to be given; nothing if that differs between its calls."""
        found = None
        if holds_data(data):
            self.varying[name] = data.bound.detach()
        if holds_data(data) and data.expectation is not None:
            found = data.expectation.detach().expand(data.bound.shape)
        known = self.arriving.setdefault(name, found)
        if known is not found and not (known is not None and found is not None and torch.equal(known, found)):
            self.arriving[name] = None

    def free_name(self, name: str, width: int) -> str:
        """Return `name`, or `name#2` and so on if it stands for a layer of another width already."""
        candidates = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
        free = next(candidate for candidate in candidates if self._widths.get(candidate, width) == width)
        self._widths[free] = width
        return free

    def _apply(
        self, rule: Rule, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], flows: list[FlowTensor]
    ) -> Any:
        """Run one rule and wrap what it returns."""
        target = args[0] if args else next(iter(kwargs.values()))
        changes = in_place(func, args, kwargs)
        if kwargs.get("out") is not None:
            target, changes = kwargs["out"], True
            flows = [flow for flow in flows if flow is not target]
        kwargs = {name: value for name, value in kwargs.items() if name != "out"}
        if rule.one_operand and any(flow is not target and holds_data(flow) for flow in flows):
            problem = "it gets data in an argument that its rule takes for a constant"
            raise RuleError(function_name(func), self.names.caller() or "", problem)
        result, sources = self._run_rule(rule, func, args, kwargs, flows)
        if self.expected and not changes and (means := carried(rule, func, args, kwargs, flows)) is not None:
            wrapped = self._wrap(rule, func, args, kwargs, flows, result, sources)
            attach(wrapped, means)
            return wrapped
        expectation = None
        if self.expected and isinstance(result, torch.Tensor):
            result, expectation = settle(rule, func, args, kwargs, result)
        if changes:
            return self._change(target, result, sources, func, expectation)
        wrapped = self._wrap(rule, func, args, kwargs, flows, result, sources)
        if isinstance(wrapped, FlowTensor) and not rule.view:
            wrapped.expectation = expectation
        return wrapped

    def _wrap(
        self,
        rule: Rule,
        func: Callable[..., Any],
        args: tuple,
        kwargs: dict[str, Any],
        flows: list[FlowTensor],
        result: Any,
        sources: frozenset[str],
    ) -> Any:
        """Wrap what a rule has returned."""
        target = args[0] if args else next(iter(kwargs.values()))
        dtype = result_dtype(func, flows, args, kwargs)
        if isinstance(result, torch.Tensor) and not rule.view:
            return FlowTensor(result, self, dtype, sources)
        if is_view(rule, target, args, kwargs) and dtype == target.dtype:
            wrap = functools.partial(self._viewing, dtype=dtype, sources=sources)
            return views(rule, result, target, args[1:], kwargs, wrap)
        return map_tensors(lambda bound: FlowTensor(bound, self, dtype, sources), result)

    def _run_rule(
        self, rule: Rule, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], flows: list[FlowTensor]
    ) -> tuple[Any, frozenset[str]]:
        """Call the rule on plain tensors; return its result and the feed-in layers that reach it."""
        sources = frozenset().union(*(flow.sources for flow in flows))
        if rule.couples and sum(bool(flow.sources) for flow in flows) > 1:
            self.met.append(sources)
        unwrap = self._unwrap_additive if rule.additive else self._unwrap
        plain_args, plain_kwargs = map_tensors(unwrap, args), map_tensors(unwrap, kwargs)
        try:
            if not rule.context:
                return rule.function(*plain_args, **plain_kwargs), sources
            context = LayerContext(self, rule.function, args, kwargs, sources)
            return rule.function(context, *plain_args, **plain_kwargs), context.sources
        except DFPCError:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".rstrip(".")
            raise RuleError(function_name(func), self.names.caller() or "", problem) from error

    def _viewing(
        self, bound: torch.Tensor, view: View, dtype: torch.dtype, sources: frozenset[str]
    ) -> FlowTensor:
        """Wrap a view of data."""
        return FlowTensor(bound, self, dtype, sources, view)

    def _change(
        self,
        target: Any,
        result: torch.Tensor,
        sources: frozenset[str],
        func: Callable[..., Any],
        expectation: torch.Tensor | None,
    ) -> Any:
        """Carry out an operation in place."""
        if not isinstance(target, FlowTensor):
            raise DFPCError(
                f"{function_name(func)} in module '{self.names.caller() or ''}' writes data into an ordinary tensor, "
                f"which cannot hold it in a pass without data; make that tensor with x.new_zeros(...) or "
                f"torch.zeros_like(x) instead of torch.zeros(...)."
            )
        target.change(result, sources)
        target.expectation = expectation
        return target

    def _unwrap(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give a rule the bounds of data, and weights (or, for variances, their squares) in the precision of the bounds."""
        if isinstance(tensor, FlowTensor):
            if tensor.constant is None:
                return tensor.bound
            tensor = tensor.constant
        tensor = tensor.detach()
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(self.dtype)
        return tensor.square() if self.expected else tensor

    def _unwrap_additive(self, tensor: torch.Tensor) -> torch.Tensor:
        """Like `_unwrap`, with zeros in place of constants."""
        if holds_data(tensor):
            return self._unwrap(tensor)
        return torch.zeros((), dtype=self.dtype, device=tensor.device).expand(tensor.shape)

    def _continue_without_rule(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Note a missing operator and go on with zeros of the right shape, so that one error can list them all."""
        self._missing[function_name(func)][self.names.caller() or ""] = None
        meta_args, meta_kwargs = map_tensors(_meta, args), map_tensors(_meta, kwargs)
        try:
            result = func(*meta_args, **meta_kwargs)
        except Exception as error:
            reason = f"{function_name(func)} cannot be run on shapes alone"
            raise UnsupportedOperatorError(self.missing, stopped_by=reason) from error
        device = next(t.device for t in tensors((args, kwargs)) if isinstance(t, FlowTensor))
        dtype = self.dtype
        return map_tensors(
            lambda meta: FlowTensor(torch.zeros(meta.shape, dtype=dtype, device=device), self, meta.dtype), result
        )

    def stop_if_missing(self, reason: str, cause: BaseException | None = None) -> None:
        """Raise with everything collected so far."""
        if self._missing:
            raise UnsupportedOperatorError(self.missing, stopped_by=reason) from cause

    def finish(self) -> None:
        """Raise if any operator had no rule.

        Raises:
            UnsupportedOperatorError: Names every one of them.
        """
        if self._missing:
            raise UnsupportedOperatorError(self.missing)


def _bound_dtype(model: nn.Module) -> torch.dtype:
    """Bounds are kept in float64 for a float64 model, else in float32: half precision would overflow."""
    is_double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    return torch.float64 if is_double else torch.float32


def _value(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a constant."""
    return tensor.constant if isinstance(tensor, FlowTensor) and tensor.constant is not None else tensor


def _stand_in(tensor: torch.Tensor) -> torch.Tensor:
    """An ordinary tensor of the same shape, dtype and device."""
    return torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    """A stand-in with the same shape and dtype and nothing else."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
