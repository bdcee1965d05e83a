"""Finds the module whose forward is running, on the Python stack, and the layer that owns a weight."""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dfpc_plugin.tracing.proxy import Proxy

_PACKAGE = Path(__file__).parent.parent
_ENGINE = (
    *(str(_PACKAGE / part) for part in ("tracing", "analyses", "ops", "preserve.py")),
    F.__file__,
    torch.overrides.__file__,
)
"""Files whose frames belong to no module and can be skipped."""


class ModelNames:
    """Dotted paths of a model's `modules` (each once) and parameters, looked up by identity."""

    def __init__(self, model: nn.Module) -> None:
        """Read the paths of `model`, which is not changed."""
        self.modules = dict(model.named_modules())
        self._modules = {id(module): path for path, module in self.modules.items()}
        self._parameters: dict[int, list[str]] = defaultdict(list)
        self._held: dict[int, list[Any]] = {}
        for path, module in self.modules.items():
            self._held[id(module)] = [parameter for parameter in module._parameters.values() if parameter is not None]
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self._parameters[id(parameter)].append(f"{path}.{name}" if path else name)

    def caller(self) -> str | None:
        """Return the dotted path of the module whose forward is running, or None."""
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if (code.co_argcount or code.co_flags & inspect.CO_VARARGS) and not code.co_filename.startswith(_ENGINE):
                name = self._modules.get(id(frame.f_locals.get(code.co_varnames[0])))
                if name is not None:
                    return name
            frame = frame.f_back  # type: ignore[assignment]
        return None

    def module(self) -> nn.Module | None:
        """The module whose forward is running, or None."""
        path = self.caller()
        return None if path is None else self.modules[path]

    def layer(self, weight: Any) -> str:
        """Name the layer that owns `weight`: its parameter's path without '.weight', or else the running module."""
        owners = self._owners(weight)
        if len(owners) == 1:
            return owners[0].removesuffix(".weight")
        caller = self.caller() or ""
        for owner in owners:
            if owner.rpartition(".")[0] == caller:
                return owner.removesuffix(".weight")
        return caller

    def parameters_of(self, module: nn.Module) -> list[Any]:
        """The parameters that `module` itself holds outside of a run."""
        return self._held.get(id(module), [])

    def path_of(self, parameter: Any) -> str:
        """First path of one of the model's parameters; '' for any other tensor."""
        return next(iter(self._parameters.get(id(parameter), [""])))

    def owns(self, tensor: Any) -> bool:
        """Tell whether `tensor` is a parameter of the model or a view of one, such as its transpose."""
        return bool(self._owners(tensor))

    def _owners(self, tensor: Any) -> list[str]:
        """Paths of the parameter that `tensor` is or views; empty for computed weights."""
        while isinstance(tensor, Proxy) and tensor.original is None and tensor._view is not None:
            tensor = tensor._view.source
        if isinstance(tensor, Proxy):
            return self._parameters.get(id(tensor.original), [])
        base = getattr(tensor, "_base", None)
        return self._parameters.get(id(tensor)) or self._parameters.get(id(base)) or []
