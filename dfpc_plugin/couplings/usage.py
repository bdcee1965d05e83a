"""Which parameters a forward uses: layers that it never calls have no couplings, and stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dfpc_plugin.flow.metadata import METADATA
from dfpc_plugin.flow.tree import tensors

__all__ = ["ParameterUse", "unused_layers"]


class ParameterUse(TorchFunctionMode):
    """Notes the parameters of a model that operators are called on while it is active, directly or by their labels.

    Attributes:
        unused: Parameters that no operator has used so far, by their identity.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take all parameters for unused, but for those of scripted modules, whose operators cannot be seen."""
        super().__init__()
        scripted = {
            id(parameter)
            for module in model.modules() if isinstance(module, torch.jit.ScriptModule)
            for parameter in module.parameters()
        }  # fmt: skip
        self.unused = {id(parameter) for parameter in model.parameters()} - scripted

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note the operands; reading a shape or a dtype is no use."""
        if func not in METADATA:
            for tensor in tensors((args, kwargs)):
                self.unused.discard(id(tensor))
                self.unused.discard(id(getattr(tensor, "original", None)))
        return func(*args, **(kwargs or {}))


def unused_layers(model: nn.Module, unused: set[int]) -> dict[str, int]:
    """Name the layers whose parameters are all unused, and single parameters of others.

    Args:
        model: Any model.
        unused: Identities of parameters.

    Returns:
        How many values each holds, by path: of the outermost modules of which nothing is used.
    """
    found: dict[str, int] = {}

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

    look("", model)
    return found
