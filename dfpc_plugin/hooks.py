"""A user's forward hooks run during a pass, but must not keep proxies."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from dfpc_plugin.interrupts import undone

CONTAINERS = (dict, list, set, deque)
_NO_STATE = (type, types.ModuleType, types.BuiltinFunctionType, torch.Tensor, str, bytes, int, float, complex)
_DEPTH = 4
"""Steps from a hook to a container: `self` of a method, its attributes, a dict in one of them, a list in that dict."""
_LARGEST = 1000
"""Maximum size of a container that is searched for others; a larger one holds data, not features by layer."""


@contextlib.contextmanager
def hook_state_kept(model: nn.Module) -> Iterator[None]:
    """Restore, at exit, what the forward hooks of `model` have collected.

    Hooks run, since some are part of the forward: weight normalisation, pruning masks, hooks that return other data. They see
    tensors without values, which must not stay in what they collect. From every hook, a few steps are searched (enclosing
    variables and globals that its code names, default arguments, arguments of `functools.partial`, the object of a method).
    Lists, dicts, sets and deques found there get their contents back, and objects their attributes. A variable gets its value
    back if a tensor was assigned to it.
    """
    found = _Reached()
    for _, hook in _hooks(model):
        found.visit(hook)
    with undone(found.restore):
        yield


def hook_that_raised(model: nn.Module, error: BaseException) -> tuple[str, str] | None:
    """Name the module and the function of the forward hook in which `error` was raised, or None."""
    codes: dict[types.CodeType, dict[str, str]] = {}
    for path, hook in _hooks(model):
        function = _function_of(hook)
        if function is not None and function.__module__ not in _PARTS_OF_FORWARDS:
            codes.setdefault(function.__code__, {})[path] = function.__qualname__
    paths = {id(module): path for path, module in model.named_modules()}
    running = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        running = paths.get(id(frame.f_locals.get("self")), running)
        if frame.f_code in codes:
            own = codes[frame.f_code]
            path = running if running in own else next(iter(own))
            return path, own[path]
    return None


_PARTS_OF_FORWARDS = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm", "torch.nn.utils.prune")
"""torch modules whose hooks compute a layer's weight: their errors are errors of the layer."""


def _hooks(model: nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    """All forward hooks with the paths of their modules; those of global ones are empty."""
    for path, module in model.named_modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            yield path, hook
    for table in (torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks):
        for hook in table.values():
            yield "", hook


def _function_of(hook: Any) -> types.FunctionType | None:
    while isinstance(hook, functools.partial):
        hook = hook.func
    if not isinstance(hook, types.FunctionType | types.MethodType):
        hook = type(hook).__call__
    function = inspect.unwrap(getattr(hook, "__func__", hook))
    return function if isinstance(function, types.FunctionType) else None


class _Reached:
    """The state that hooks reach, for restoring."""

    def __init__(self) -> None:
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._cells: dict[int, tuple[types.CellType, Any]] = {}
        self._globals: dict[tuple[int, str], tuple[dict[str, Any], Any]] = {}

    def visit(self, value: Any, depth: int = _DEPTH) -> None:
        """Store `value` and what can be reached from it."""
        if isinstance(value, _NO_STATE) or value is None or depth < 0 or id(value) in self._containers:
            return
        if isinstance(value, functools.partial):
            parts = [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, types.MethodType):
            parts = [value.__self__, value.__func__]
        elif isinstance(value, types.FunctionType):
            parts = self._variables(value)
        elif isinstance(value, CONTAINERS):
            self._containers[id(value)] = (value, value.copy())
            inner = value.values() if isinstance(value, dict) else value
            parts = list(inner) if len(value) <= _LARGEST else []
        else:
            parts = [vars(value)] if hasattr(value, "__dict__") else []
            depth += 1  # an object and its attributes are one step
        for part in parts:
            self.visit(part, depth - 1)

    def _variables(self, function: types.FunctionType) -> list[Any]:
        """Values that a function's code can name: default arguments, enclosing variables and globals."""
        parts: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            self._cells[id(cell)] = (cell, content)
            parts.append(content)
        for name in _names(function.__code__):
            if name in function.__globals__:
                content = function.__globals__[name]
                self._globals[id(function.__globals__), name] = (function.__globals__, content)
                parts.append(content)
        return parts

    def restore(self) -> None:
        for cell, content in self._cells.values():
            if cell.cell_contents is not content and isinstance(cell.cell_contents, torch.Tensor):
                cell.cell_contents = content
        for (_, name), (table, content) in self._globals.items():
            if table.get(name) is not content and isinstance(table.get(name), torch.Tensor):
                table[name] = content
        for container, contents in self._containers.values():
            if not same_contents(container, contents):
                refill(container, contents)


def _names(code: types.CodeType) -> Iterator[str]:
    """Names of globals and attributes in a function's code, inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def same_contents(container: Any, contents: Any) -> bool:
    """Compare by identity: tensors have no truth value, and an object may have been replaced by an equal one."""
    if len(container) != len(contents):
        return False
    if isinstance(container, dict):
        same_values = all(map(operator.is_, container.values(), contents.values()))
        return same_values and all(map(operator.is_, container, contents))
    if isinstance(container, set):
        return {id(item) for item in container} == {id(item) for item in contents}
    return all(map(operator.is_, container, contents))


def refill(container: Any, contents: Any) -> None:
    """Replace the contents of `container`, which stays the same object."""
    container.clear()
    container.extend(contents) if isinstance(container, list | deque) else container.update(contents)
