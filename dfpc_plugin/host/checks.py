"""Checks of a user's settings for a pruner or graph, and the layers that they exclude by object, type or name."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from dfpc_plugin.errors import GroupError, PrunerSettingError
from dfpc_plugin.plain_data import Count, Share, checked
from dfpc_plugin.selection import Target

DEFAULT_RATIO = float("0.5")
"""Torch-Pruning's default. It is compared by identity: a user's own 0.5 contradicts a target."""


def parsed_target(target: str | Target | None, options: Mapping[str, Any]) -> Target | None:
    """Return a target, if there is one; raise if it must be measured, or contradicts the `options` of the pruner by name."""
    if target is None:
        return None
    target = Target.parse(target)
    if target.measured or target.max_drop is not None:
        raise PrunerSettingError(
            f"The target {target} has to be measured, which a pruner does not; use dfpc_plugin.prune, or a target of "
            f"ratio, macs or params."
        )
    if _ratio_of(options) is not DEFAULT_RATIO:
        raise PrunerSettingError(
            f"pruning_ratio={_ratio_of(options)} and the target {target} are both given; leave one of them out."
        )
    if any(options[name] for name in ("pruning_ratio_dict", "ch_sparsity_dict", "isomorphic", "prune_num_heads")):
        raise PrunerSettingError(
            "A target is for one ranking of everything; leave out ratios by layer, isomorphic and heads."
        )
    return target


def check_options(options: Mapping[str, Any]) -> None:
    """Raise for options of a pruner, by name, that are not possible, contradict each other, or would have no effect."""
    checked(Share, _ratio_of(options), "pruning_ratio", PrunerSettingError)
    for name in ("max_pruning_ratio", "head_pruning_ratio"):
        checked(Share, options[name], name, PrunerSettingError)
    checked(Count | None, options["round_to"], "round_to", PrunerSettingError)
    checked(Count, options["iterative_steps"], "iterative_steps", PrunerSettingError)
    modules = set(options["model"].modules())
    for key in (*(options["pruning_ratio_dict"] or ()), *(options["ch_sparsity_dict"] or ())):
        for layer in key if isinstance(key, tuple) else (key,):
            if layer not in modules:
                raise PrunerSettingError(
                    f"pruning_ratio_dict has the key {str(layer)[:60]!r}, which is no module of this model; "
                    f"pass modules or tuples of modules, such as {{model.layer3: 0.5}}."
                )
    if options["prune_num_heads"] and options["prune_head_dims"]:
        raise PrunerSettingError(
            "prune_num_heads and prune_head_dims are both set, but a unit is a whole head or a dimension of all heads; "
            "set prune_head_dims=False (Torch-Pruning's default is True), or use one pruner after the other."
        )
    if options["head_pruning_ratio"] and not options["prune_num_heads"]:
        raise PrunerSettingError(
            f"head_pruning_ratio={options['head_pruning_ratio']} has no effect on its own; set prune_num_heads=True, "
            f"prune_head_dims=False."
        )
    if options["head_pruning_ratio_dict"]:
        raise PrunerSettingError(
            "head_pruning_ratio_dict is not supported; give ratios by layer in pruning_ratio_dict."
        )


def _ratio_of(options: Mapping[str, Any]) -> float:
    ratio: float = options["pruning_ratio"] if options["ch_sparsity"] is None else options["ch_sparsity"]
    return ratio


def check_range(idxs: list[int], count: int, where: str, kind: str) -> None:
    """Raise for indices out of range."""
    if not idxs:
        raise GroupError(f"No {kind} of {where} were named; name at least one.")
    wrong = [i for i in idxs if not 0 <= i < count]
    if wrong:
        raise GroupError(f"{where} has {count} {kind}, and index {wrong[0]} is none of them; count from 0.")


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
