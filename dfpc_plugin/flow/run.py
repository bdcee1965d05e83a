"""Run a model once on data-flow tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from dfpc_plugin.errors import ExampleInputsError, UnsupportedOperatorError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.flow.engine import FlowRun, MissingOperator
from dfpc_plugin.flow.forward import follow
from dfpc_plugin.flow.script import scripted_functions_redirected
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.wrappers import plain_model

__all__ = ["ForwardFunction", "missing_operators", "run_flow"]


def run_flow(
    model: nn.Module,
    example_inputs: ExampleInputs,
    forward_fn: ForwardFunction | None = None,
    *,
    expected: bool = False,
) -> FlowRun:
    """Run `model` once on data-flow tensors of the shapes of `example_inputs`; their values are not used.

    With `forward_fn`, calls `forward_fn(model, example_inputs)` in place of the model. The model is left as it was
    found. Works under `torch.no_grad()` and `torch.inference_mode()`. With `expected`, variances flow instead of bounds.

    Raises:
        UnsupportedOperatorError: Operators of the model have no rule.
        ValueDependentError: The forward needs the values of its data.
        ExampleInputsError: `example_inputs` is not something to call a model with.
    """
    run = _run_once(model, example_inputs, forward_fn, expected)
    run.finish()
    return run


def missing_operators(
    model: nn.Module, example_inputs: ExampleInputs, forward_fn: ForwardFunction | None = None
) -> tuple[MissingOperator, ...]:
    """Return the operators of `model` that have no rule; works on the meta device, without weights.

    With `forward_fn`, calls `forward_fn(model, example_inputs)` in place of the model.

    Raises:
        ValueDependentError: The forward needs the values of its data.
        ExampleInputsError: `example_inputs` is not something to call a model with.
    """
    try:
        return _run_once(model, example_inputs, forward_fn).missing
    except UnsupportedOperatorError as error:
        return error.missing


def _run_once(
    model: nn.Module, example_inputs: ExampleInputs, forward_fn: ForwardFunction | None, expected: bool = False
) -> FlowRun:
    """Run the forward and return what the run collected, complete or not."""
    model = plain_model(model, scripted=True)
    run = FlowRun(model, expected=expected)
    with _recording(model):
        follow(run, model, example_inputs, forward_fn)
    if not run.calls:
        raise ExampleInputsError("The forward did nothing with the example inputs, so there is nothing to follow.")
    return run


@contextlib.contextmanager
def _recording(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and gradients, whatever mode the caller is in; the model is restored at exit."""
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model), scripted_functions_redirected():
        yield
