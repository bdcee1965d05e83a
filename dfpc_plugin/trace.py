"""Trace a model: run its forward once on proxies, for all requested analyses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from dfpc_plugin import ops  # noqa: F401
from dfpc_plugin.analyses.bounds import Bounds, Flow, bound_dtype
from dfpc_plugin.analyses.channels import ChannelTrace
from dfpc_plugin.analyses.confirmed_widths import Statements
from dfpc_plugin.analyses.forward import follow
from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.errors import ExampleInputsError, MissingOperator, RuleError, UnsupportedOperatorError
from dfpc_plugin.families.registry import ForwardFunction, run_forward
from dfpc_plugin.inputs import ExampleInputs, as_inputs, inputs_explained
from dfpc_plugin.interrupts import collector_paused, entered
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.tracing.caches import caches_passed_by
from dfpc_plugin.tracing.constants import Constants
from dfpc_plugin.tracing.proxy import Proxy
from dfpc_plugin.tracing.script import scripted_functions_redirected
from dfpc_plugin.tracing.state import traced_state
from dfpc_plugin.tracing.traced_run import TracedRun
from dfpc_plugin.tracing.tree import returned_tensors
from dfpc_plugin.wrappers import HoldsModel, plain_model

__all__ = ["Flow", "ForwardFunction", "Trace", "missing_operators", "trace_model"]


@dataclass(frozen=True)
class Trace:
    """The results of one traced run: channels with the forward's constraints, and bounds; None if not requested."""

    run: TracedRun
    channels: ChannelTrace | None
    bounds: Bounds | None


def trace_model(
    model: nn.Module,
    example_inputs: ExampleInputs,
    forward_fn: ForwardFunction | None = None,
    *,
    channels: bool = False,
    flow: Flow | None = None,
) -> Trace:
    """Run `model` once on proxies shaped like `example_inputs`; of their values, only integers are used.

    The model, which has no wrappers (see `wrappers.plain_model`), is not changed. Works under `torch.no_grad()` and
    `torch.inference_mode()`. With `channels`, channels are followed; `flow` is propagated in place of data.

    Raises:
        UnsupportedOperatorError: Operators of the model have no record.
        ValueDependentError: The forward needs the values of its data.
        ExampleInputsError: `example_inputs` is not something to call a model with.
        ForwardError: The model itself fails on `example_inputs`.
        RuleError: A rule cannot do what the forward asks of its operator.
    """
    with _tried_without_proxies(model, example_inputs, forward_fn):
        trace = _traced(model, example_inputs, forward_fn, channels=channels, flow=flow)
    trace.run.finish()
    return trace


@checks_arguments
def missing_operators(
    model: nn.Module | HoldsModel, example_inputs: ExampleInputs, forward_fn: ForwardFunction | None = None
) -> tuple[MissingOperator, ...]:
    """Return the operators of `model` that have no rule; works on the meta device, without weights.

    With `forward_fn`, calls `forward_fn(model, example_inputs)` in place of the model.

    Raises:
        ValueDependentError: The forward needs the values of its data.
        ExampleInputsError: `example_inputs` holds no data, or the model cannot be called with it.
    """
    try:
        model = plain_model(model, scripted=True)
        with _tried_without_proxies(model, example_inputs, forward_fn):
            return _traced(model, example_inputs, forward_fn, channels=False, flow="bounds").run.missing
    except UnsupportedOperatorError as error:
        return error.missing


@contextlib.contextmanager
def _tried_without_proxies(
    model: nn.Module, example_inputs: ExampleInputs, forward_fn: ForwardFunction | None
) -> Iterator[None]:
    """If a rule fails, call the model itself: where that fails, too, its ForwardError replaces the RuleError."""
    try:
        yield
    except RuleError:
        if not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            with _recording(model):
                run_forward(model, as_inputs(example_inputs), forward_fn)
        raise


def _traced(
    model: nn.Module,
    example_inputs: ExampleInputs,
    forward_fn: ForwardFunction | None,
    *,
    channels: bool,
    flow: Flow | None,
) -> Trace:
    """Run the forward and return the results, complete or not."""
    example_inputs = as_inputs(example_inputs)
    run = TracedRun(model)
    followed, bounds = ChannelTrace(run) if channels else None, None
    if flow is not None:
        run.dtype = bound_dtype(model)
        bounds = Bounds(run, flow)
    run.channels, run.bounds, run.traces_sizes = followed, bounds, channels
    with _recording(model):
        statements = Statements(followed) if followed is not None else None
        with (
            traced_state(run, None if followed is None else followed.label),
            caches_passed_by(run.names.modules.values()),
            entered(Constants(run, run.written)),
        ):
            with contextlib.ExitStack() as stack:
                if not forward_fn:
                    stack.enter_context(inputs_explained(model, example_inputs))
                if statements is not None:
                    stack.enter_context(statements.watching())
                outputs = follow(run, model, example_inputs, forward_fn)
            returned = [run.known(tensor) for tensor in returned_tensors(outputs)]
            if bounds is not None and bounds.to_outputs:
                bounds.outputs = [t.bound for t in returned if isinstance(t, Proxy) and t.holds_data]
            if followed is not None and statements is not None:
                for tensor in returned:
                    followed.output(tensor)
                if not run.missing:
                    statements.look_aside(model, example_inputs)
    if not run.calls:
        raise ExampleInputsError("The forward did nothing with the example inputs, so there is nothing to follow.")
    run.channels = run.bounds = None  # they may refer to the run
    return Trace(run, followed, bounds)


@contextlib.contextmanager
def _recording(model: nn.Module) -> Iterator[None]:
    """Enter evaluation mode without gradients, whatever the caller's mode; the model is restored at exit."""
    with (
        collector_paused(),
        torch.inference_mode(False),
        evaluating(model),
        torch.no_grad(),
        scripted_functions_redirected(),
    ):
        yield
