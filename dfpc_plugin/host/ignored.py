"""Layers that a user excludes from pruning, by object, type or name."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from typing import Any

from torch import nn

from dfpc_plugin.errors import PrunerSettingError


def ignored_modules(model: nn.Module, layers: Any) -> list[Any]:
    """Return the modules and parameters of `model` that `layers` refers to, with all modules inside them.

    These are one or several of modules, parameters, types of modules, names ("layer1.0.conv1", also of parameters) or
    shell-style patterns ("*.attn.qkv"). Raises PrunerSettingError for anything else, and for what matches nothing.
    """
    modules, parameters = set(model.modules()), {id(parameter) for parameter in model.parameters()}
    named: dict[str, Any] = dict(model.named_modules(remove_duplicate=False))
    named.update(model.named_parameters(remove_duplicate=False))
    found: list[Any] = []
    for layer in listed(layers):
        if isinstance(layer, str):
            found += _named(named, layer)
        elif isinstance(layer, type):
            found += [module for module in model.modules() if isinstance(module, layer)]
        elif (isinstance(layer, nn.Module) and layer in modules) or id(layer) in parameters:
            found.append(layer)
        else:
            raise PrunerSettingError(
                f"ignored_layers holds {type(layer).__name__} {str(layer)[:60]!r}, which is no module, parameter or "
                f"module type of this model; pass the objects themselves, such as model.fc, or their names."
            )
    return [inner for layer in found for inner in (layer.modules() if isinstance(layer, nn.Module) else (layer,))]


def listed(layers: Any) -> list[Any]:
    """Return one layer, several, or none, as a list."""
    if layers is None:
        return []
    single = isinstance(layers, str | type | nn.Module | nn.Parameter) or not isinstance(layers, Iterable)
    return [layers] if single else list(layers)


def _named(named: dict[str, Any], pattern: str) -> list[Any]:
    if pattern in named:
        return [named[pattern]]
    found = [layer for name, layer in named.items() if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, named, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "named_modules() of the model lists its names."
        raise PrunerSettingError(f"ignored_layers holds '{pattern}', and no layer of this model is called so; {hint}")
    return found
