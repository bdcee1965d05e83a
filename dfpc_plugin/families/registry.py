"""Forwards for models whose own forward depends on values and cannot run without data."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from dfpc_plugin.eager import running_eagerly
from dfpc_plugin.errors import DFPCError, ForwardError
from dfpc_plugin.inputs import as_call, described, fresh, inputs_explained
from dfpc_plugin.preserve import watched

ForwardFunction = Callable[[nn.Module, Any], Any]
"""Calls a model in another way: `forward_fn(model, example_inputs)`."""

F = TypeVar("F", bound=Callable[[nn.Module, Any], Any])

_FORWARDS: dict[str, ForwardFunction] = {}
_NOTES: dict[str, Callable[[nn.Module, Any], str]] = {}


def register_forward(*classes: str) -> Callable[[ForwardFunction], ForwardFunction]:
    """Register the decorated function as the forward of models of `classes` in passes without data.

    The function calls every layer on the inputs that the model's forward gives it, and leaves out what depends on values, such
    as the selection of boxes.

    Args:
        *classes: Full names, `package.module.Class`: the package need not be installed. Subclasses are included.
    """
    return functools.partial(_register, _FORWARDS, classes)


def register_note(*classes: str) -> Callable[[Callable[[nn.Module, Any], str]], Callable[[nn.Module, Any], str]]:
    """Register a function of a model and its inputs that returns the assumptions under which its MACs are counted.

    Args:
        *classes: As for `register_forward`.
    """
    return functools.partial(_register, _NOTES, classes)


def _register(table: dict[str, F], classes: tuple[str, ...], function: F) -> F:
    table.update(dict.fromkeys(classes, function))
    return function


def _of_class(table: dict[str, F], model: nn.Module) -> F | None:
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__)
    return next((table[name] for name in names if name in table), None)


def counting_note(model: nn.Module, example_inputs: Any) -> str | None:
    """Return the assumptions under which the MACs of `model` are counted, or None if there are none."""
    note = _of_class(_NOTES, model)
    return None if note is None else note(model, example_inputs)


def data_flow_forward(model: nn.Module) -> ForwardFunction | None:
    """Return the registered forward of `model`, or None if its own is used."""
    return _of_class(_FORWARDS, model)


def call_forward(model: nn.Module, inputs: Any, forward_fn: ForwardFunction | None) -> Any:
    """Call the model on `inputs`: by `forward_fn`, by its family's function, or directly. Raises what the forward raises."""
    forward = forward_fn or data_flow_forward(model)
    args, kwargs = as_call(inputs) if forward is None else ((), {})
    with running_eagerly(), watched():
        return model(*args, **kwargs) if forward is None else forward(model, inputs)


def run_forward(model: nn.Module, inputs: Any, forward_fn: ForwardFunction | None) -> Any:
    """Like `call_forward`, on a copy of `inputs`, which a forward may write to.

    Raises ForwardError for an error that is not of this package.
    """
    direct = forward_fn is None and data_flow_forward(model) is None
    try:
        with inputs_explained(model, inputs) if direct else contextlib.nullcontext():
            return call_forward(model, fresh(inputs), forward_fn)
    except DFPCError:
        raise
    except Exception as error:  # a forward may raise anything
        raise failed_forward(model, inputs, error) from error


def failed_forward(model: nn.Module, inputs: Any, error: BaseException) -> ForwardError:
    """Return an error that says what a forward of `model` on `inputs` has raised, and where."""
    return ForwardError(described(inputs), running_modules(model, error), error)


def running_modules(model: nn.Module, error: BaseException) -> tuple[str, ...]:
    """Return paths of the modules in whose methods an error was raised, the innermost first."""
    paths = {id(module): path for path, module in model.named_modules()}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = [paths.get(id(frame.f_locals.get("self"))) for frame in reversed(frames)]
    return tuple(dict.fromkeys(path for path in found if path is not None))
