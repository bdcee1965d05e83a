"""A user's forward hooks run during a pass, but must not keep proxies."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from dfpc_plugin.containers import CONTAINERS, refill, same_contents
from dfpc_plugin.interrupts import undone

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
    for _, _, hook in _hooks(model):
        found.visit(hook)
    with undone(found.restore):
        yield


def hook_that_raised(model: nn.Module, error: BaseException) -> tuple[str, str] | None:
    """Name the module and the function of the forward hook in which `error` was raised, or None."""
    codes: dict[types.CodeType, list[tuple[str, nn.Module | None, Callable[..., Any]]]] = {}
    for path, module, hook in _hooks(model):
        function = _function_of(hook)
        if function is not None and function.__module__ not in _PARTS_OF_FORWARDS:
            codes.setdefault(function.__code__, []).append((path, module, hook))
    paths = {id(module): path for path, module in model.named_modules()}
    running, traceback = "", error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        running = paths.get(id(frame.f_locals.get("self")), running)
        if frame.f_code in codes:
            own = [(path, hook) for path, _, hook in codes[frame.f_code]]
            path, hook = next(((path, hook) for path, hook in own if path == running), own[0])
            return path, getattr(_function_of(hook), "__qualname__", repr(hook))
        traceback = traceback.tb_next
    return None


_PARTS_OF_FORWARDS = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm", "torch.nn.utils.prune")
"""torch modules whose hooks compute a layer's weight: their errors are errors of the layer."""


def _hooks(model: nn.Module) -> Iterator[tuple[str, nn.Module | None, Callable[..., Any]]]:
    """All forward hooks, global ones included: path, module, hook."""
    for path, module in model.named_modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            yield path, module, hook
    for table in (torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks):
        for hook in table.values():
            yield "", None, hook


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
