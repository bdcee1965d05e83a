"""What a forward uses: the attributes that its code reads, whose change would change it, and the layers with parameters."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import torch
from torch import nn


class CodeReads:
    """Attributes that the forwards of a model's modules read, by class."""

    def __init__(self, modules: Iterable[nn.Module], *functions: Callable[..., Any] | None) -> None:
        """Read the code of every class's forward, of the methods and functions that it calls, and of `functions`."""
        self._own: dict[type, set[str]] = {}
        self._others: set[str] = set()
        self._seen: set[tuple[type, types.CodeType]] = set()
        for kind in {type(module) for module in modules}:
            self._own[kind] = set()
            if not issubclass(kind, torch.jit.ScriptModule):
                self._follow(kind, getattr(kind, "forward", None))
        for function in functions:
            self._follow(nn.Module, function)

    def __call__(self, module: nn.Module, name: str) -> bool:
        """Whether the forward reads an attribute of a module, as far as the code shows."""
        return name in self._own.get(type(module), ()) or name in self._others

    def _follow(self, kind: type, function: Any) -> None:
        function = getattr(function, "__wrapped__", function)
        function = getattr(function, "__func__", function)
        if isinstance(function, types.FunctionType) and not function.__module__.startswith("torch."):
            self._read(kind, function.__code__, function.__globals__)

    def _read(self, kind: type, code: types.CodeType, names: dict[str, Any]) -> None:
        """Note the attributes that some code reads, and those in functions that it defines or calls."""
        if (kind, code) in self._seen:
            return
        self._seen.add((kind, code))
        for own, name in _attributes(code):
            method = getattr(kind, name, None) if own else None
            if isinstance(method, property):
                self._follow(kind, method.fget)
            elif callable(method):
                self._follow(kind, method)
            elif own and kind in self._own:
                self._own[kind].add(name)
            else:
                self._others.add(name)
        for name in code.co_names:
            if isinstance(names.get(name), types.FunctionType):
                self._follow(kind, names[name])
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                self._read(kind, inner, names)


@functools.lru_cache(maxsize=4096)  # reading instructions is slow
def _attributes(code: types.CodeType) -> tuple[tuple[bool, str], ...]:
    """Attributes that code reads, each with whether it belongs to `self`; methods called on others are left out."""
    found = []
    previous: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            own = previous == "self" or (isinstance(previous, tuple) and previous[-1:] == ("self",))
            called = instruction.opname == "LOAD_METHOD" or "NULL" in instruction.argrepr
            if own or not called:
                found.append((own, str(instruction.argval)))
        previous = instruction.argval
    return tuple(found)


def unused_layers(modules: Mapping[str, nn.Module], used: Set[int]) -> dict[str, int]:
    """Name the outermost layers whose parameters are all unused, and single unused parameters, with numbers of values.

    Args:
        modules: All modules of a model by path.
        used: Ids of the parameters that operators were called on; scripted modules are ignored.
    """
    found: dict[str, int] = {}
    held = [
        (id(parameter), isinstance(module, torch.jit.ScriptModule))
        for module in modules.values() for parameter in module._parameters.values() if parameter is not None
    ]  # fmt: skip
    unused = {number for number, _ in held} - used - {number for number, scripted in held if scripted}
    if not unused:
        return found

    def look(path: str, module: nn.Module) -> None:
        own = {id(parameter): parameter for parameter in module.parameters()}
        if path and own and own.keys() <= unused:
            found[path] = sum(parameter.numel() for parameter in own.values())
            return
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in unused:
                found[f"{prefix}{name}"] = parameter.numel()
        for name, child in module.named_children():
            look(f"{prefix}{name}", child)

    look("", modules[""])
    return found


def used_modules(modules: Mapping[str, nn.Module], used: Iterable[int]) -> tuple[str, ...]:
    """Return the paths of modules in the order in which the forward first uses parameters; `used`: their ids in order."""
    owner: dict[int, str] = {}
    for path, module in modules.items():
        holder = path.partition(".parametrizations.")[0].removeprefix("parametrizations.")
        for parameter in module._parameters.values():
            owner.setdefault(id(parameter), holder)
    return tuple(dict.fromkeys(owner[number] for number in used if number in owner))
