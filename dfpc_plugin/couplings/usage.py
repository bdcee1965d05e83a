"""The layers that a forward uses, in order, and those it never uses, which have no couplings and are not pruned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

import torch
from torch import nn


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
