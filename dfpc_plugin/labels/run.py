"""One pass over a model that follows channels: every parameter gets labels, every operator says what they demand."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.errors import DFPCError, RuleError, UnsupportedOperatorError, ValueDependentError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.flow.calls import in_place
from dfpc_plugin.flow.engine import MissingOperator
from dfpc_plugin.flow.forward import follow
from dfpc_plugin.flow.metadata import CONSTANTS, VALUES
from dfpc_plugin.flow.names import ModelNames
from dfpc_plugin.flow.registry import find_rule, function_name
from dfpc_plugin.flow.script import interpret, is_scripted, scripted_functions_redirected
from dfpc_plugin.flow.tree import map_tensors, returned_tensors
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.labels.call import LabelCall, value_of
from dfpc_plugin.labels.parameters import labelled_state
from dfpc_plugin.labels.registry import find_label_rule
from dfpc_plugin.labels.stated import Stated, Statements
from dfpc_plugin.labels.table import LabelTable, Scaling, Work
from dfpc_plugin.labels.tensor import LabelTensor, shape_of
from dfpc_plugin.preserve import evaluating

__all__ = ["LabelRun", "run_labels"]


class LabelRun:
    """Dispatches operations to label rules and collects what they demand.

    Attributes:
        table: Labels and demands.
        names: Paths of the model's modules and parameters.
        work: Calls of layers and products of matrices.
        twins: Labels of the outputs of weights and of the biases added to them.
        scaled: Entries multiplied by numbers that depend on widths.
        calls: Number of operations so far.
        buffers: Paths of labelled tensors that are no parameters.
        state: The labelled tensor of every parameter and buffer, by the identity of the original.
        parameters: Shapes of the model's parameters by path.
        outputs: Shapes of the tensors that the model returns.
        stated: Widths that the model states about itself, as far as they are true.
    """

    def __init__(self, model: nn.Module) -> None:
        """Prepare for one pass over `model`; nothing of it is changed."""
        self.table = LabelTable()
        self.names = ModelNames(model)
        self.work: list[Work] = []
        self.twins: list[tuple[Tensor, Tensor]] = []
        self.scaled: list[Scaling] = []
        self.calls = 0
        self.buffers: set[str] = set()
        self.state: dict[int, LabelTensor] = {}
        self.parameters: dict[str, torch.Size] = {}
        self.outputs: list[torch.Size] = []
        self.stated: list[Stated] = []
        self._missing: dict[str, dict[str, None]] = defaultdict(dict)

    @property
    def missing(self) -> tuple[MissingOperator, ...]:
        """Operators met so far that have no rule."""
        return tuple(MissingOperator(name, tuple(callers)) for name, callers in self._missing.items())

    def input(self, tensor: Tensor) -> Tensor:
        """Turn an example input into data without channels; masks stay what they are."""
        if tensor.dtype == torch.bool:
            return tensor
        return LabelTensor(tensor.shape, (), self, tensor.dtype, tensor.device)

    def output(self, tensor: Tensor) -> None:
        """Note that the model returns `tensor`: its channels stay."""
        self.outputs.append(shape_of(tensor))
        if isinstance(tensor, LabelTensor):
            for slot in tensor.slots:
                self.table.freeze(slot, "is the model's output")

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Forget, at exit, what was noted since: what is run here is only looked at."""
        table, calls = self.table, self.calls
        notes: list[list[Any]] = [*table.notes, self.work, self.twins, self.scaled]
        lengths = [len(noted) for noted in notes]
        try:
            yield
        finally:
            for noted, length in zip(notes, lengths, strict=True):
                del noted[length:]
            self.calls = calls
            self._missing.clear()

    def call(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], stand_ins: list[Any]) -> Any:
        """Apply the label rule of `func`."""
        self.calls += 1
        call = LabelCall(self, func, args, kwargs, stand_ins)
        if func in CONSTANTS:
            return call.constant()
        if func in VALUES and call.value is not None:
            return map_tensors(_detached, call.value())
        args, kwargs = map_tensors(self._known, args), map_tensors(self._known, kwargs)
        rule = find_label_rule(func)
        if rule is None:
            return self._without_rule(call, func, args, kwargs)
        kwargs = dict(kwargs)
        out = kwargs.pop("out", None)
        try:
            result = rule(call, *args, **kwargs)
        except DFPCError:
            raise
        except Exception as error:  # a use of the operator that its rule does not know: protect what enters
            problem = f"{type(error).__name__}: {error}".rstrip(".")
            try:
                return call.opaque(args, kwargs, f"could not be followed ({problem})")
            except Exception:
                raise RuleError(function_name(func), self.names.caller() or "", problem) from error
        target = out if out is not None else args[0] if args and in_place(func, args, kwargs) else None
        if isinstance(target, LabelTensor) and isinstance(result, LabelTensor):
            return self._change(call, target, result)
        return result

    def _change(self, call: LabelCall, target: LabelTensor, result: LabelTensor) -> LabelTensor:
        """Carry out an operation in place; constants that no data enters keep their values up to date."""
        if call.value is None:
            target.value = None
        elif target.wild:
            call.value()
        else:
            target.value = result.value
        target.change(call.expanded(result.slots, target))
        target.linear, target.factor, target.spread = result.linear, result.factor, result.spread
        return target

    def _known(self, tensor: Tensor) -> Tensor:
        """Labels of a parameter that the model has kept in a list of its own, as recurrent layers do."""
        return tensor if isinstance(tensor, LabelTensor) else self.state.get(id(tensor), tensor)

    def _without_rule(self, call: LabelCall, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Weights alone: compute. Scripted: interpret. User's operator: protect what enters. Else note it as missing."""
        if is_scripted(func):
            return interpret(func, args, kwargs)
        if call.value is not None and in_place(func, args, kwargs):
            return self._change_weight(func, args, kwargs)
        if call.value is not None:
            return map_tensors(_detached, call.value())
        if func in VALUES:
            self.stop_if_missing(f"{function_name(func)} asks for values")
            raise ValueDependentError(function_name(func), self.names.caller() or "the model itself")
        if find_rule(func) is None:
            self._missing[function_name(func)][self.names.caller() or ""] = None
        return call.opaque(args, kwargs)

    def _change_weight(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> LabelTensor:
        """Carry out an operation in place on a copy of weights: the model's own do not change."""
        target = args[0]
        rest, named = map_tensors(value_of, (args[1:], kwargs))
        changed = func(value_of(target).detach().clone(), *rest, **named)
        target.value = lambda: changed
        return target

    def stop_if_missing(self, reason: str, cause: BaseException | None = None) -> None:
        """Raise with everything collected so far."""
        if self._missing:
            raise UnsupportedOperatorError(self.missing, stopped_by=reason) from cause


def run_labels(model: nn.Module, example_inputs: ExampleInputs, forward_fn: ForwardFunction | None = None) -> LabelRun:
    """Run `model` once on tensors that carry channel labels; their values are not used and the model is not changed.

    Raises:
        UnsupportedOperatorError: Operators of the model have no rule.
        ValueDependentError: The forward needs the values of its data.
        ExampleInputsError: `example_inputs` is not something to call a model with.
    """
    run = LabelRun(model)
    with _recording(model):
        statements = Statements(run)
        with labelled_state(run):
            with statements.watching():
                outputs = follow(run, model, example_inputs, forward_fn)
            for tensor in returned_tensors(outputs):
                run.output(tensor)
            if not run.missing:
                statements.look_aside(model, example_inputs)
    if run.missing:
        raise UnsupportedOperatorError(run.missing)
    return run


def _detached(tensor: Tensor) -> Tensor:
    """Values of weights are constants to a pass."""
    return tensor.detach()


@contextlib.contextmanager
def _recording(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model is restored at exit."""
    with torch.inference_mode(False), torch.no_grad(), evaluating(model), scripted_functions_redirected():
        yield
