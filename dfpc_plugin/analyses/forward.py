"""Call a model's forward on the proxies of a pass."""

from __future__ import annotations

from typing import Any

from torch import nn

from dfpc_plugin.errors import DFPCError, ExampleInputsError, HookError, UnsupportedOperatorError, ValueDependentError
from dfpc_plugin.families.registry import ForwardFunction, call_forward
from dfpc_plugin.hooks import hook_that_raised
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.tracing.proxy import Proxy
from dfpc_plugin.tracing.traced_run import TracedRun
from dfpc_plugin.tracing.tree import map_tensors, tensors


def follow(run: TracedRun, model: nn.Module, example_inputs: ExampleInputs, forward_fn: ForwardFunction | None) -> Any:
    """Call the model on proxies and return its output: by `forward_fn`, by its family's function, or directly.

    Raises UnsupportedOperatorError if the forward raised after it had met operators without a rule, ValueDependentError if it,
    or HookError if a hook of the user, needs the values of its data, ExampleInputsError if the inputs hold no data or cannot
    be called with, and whatever else the forward raises.
    """
    inputs = map_tensors(run.input, example_inputs)
    if not any(isinstance(tensor, Proxy) for tensor in tensors(inputs)):
        raise ExampleInputsError(
            "example_inputs holds no tensor of data; give tensors, in tuples, lists or dicts if there are several."
        )
    try:
        return call_forward(model, inputs, forward_fn)
    except DFPCError as error:
        hook = hook_that_raised(model, error)
        if hook is not None:
            raise HookError(*hook, str(error).split(";")[0]) from error
        if not isinstance(error, UnsupportedOperatorError | ValueDependentError):
            run.stop_if_missing(f"{type(error).__name__}: {error}", error)
        raise
    except Exception as error:
        run.stop_if_missing(f"{type(error).__name__}: {error}", error)
        raise
