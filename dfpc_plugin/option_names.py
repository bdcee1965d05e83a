"""Options that a function does not have: the error names the nearest of its own, or what stands for one of Torch-Pruning's."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from dfpc_plugin.errors import OptionNameError
from dfpc_plugin.plain_data import did_you_mean

_TARGET = 'give a target: `"ratio=0.3"`, `"macs=0.5"`, `"params=0.5"`, `"speedup=1.5"` or `"max_drop=2"`'
_BY_LAYER = "leave it out, or use `DFPCPruner`, which has it"
_FOUND = "leave it out: heads and groups are found in the model"
TORCH_PRUNING = {
    "pruning_ratio": _TARGET,
    "ch_sparsity": _TARGET,
    "pruning_ratio_dict": _BY_LAYER,
    "ch_sparsity_dict": _BY_LAYER,
    "max_pruning_ratio": "give `max_ratio`, a hard limit for every coupling",
    "global_pruning": "leave it out: all couplings are ranked together",
    "isomorphic": _BY_LAYER,
    "iterative_steps": "give `rescore=0.1`, or use `prune_and_tune` to train between the steps",
    "iterative_pruning_ratio_scheduler": "use `prune_and_tune`",
    "num_heads": _FOUND,
    "in_channel_groups": _FOUND,
    "out_channel_groups": _FOUND,
    "channel_groups": _FOUND,
    "prune_num_heads": "give `whole_heads=True`",
    "prune_head_dims": "leave it out, or give `whole_heads=True`",
    "head_pruning_ratio": "give a target and `whole_heads=True`",
    "head_pruning_ratio_dict": _BY_LAYER,
    "unwrapped_parameters": "leave it out: parameters outside layers are found",
    "customized_pruners": "register a rule with `@dfpc_plugin.rule`",
    "root_module_types": "give `ignored_layers`, which takes types",
    "output_transform": "leave it out: outputs of any form are followed",
}
"""Options of Torch-Pruning's pruners that `prune` has not, and what to do instead; the documentation shows the same."""

BUDGETS: dict[str, str] = {}
"""An example of every budget of a target, by its name; declared with the budgets."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def checks_option_names(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function answer an option that it does not have with `OptionNameError`, before it is called."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        unknown = next((option for option in kwargs if option not in known), None)
        if unknown is not None:
            raise OptionNameError(f"{name} has no option '{unknown}'{instead_of(unknown, known)}")
        return function(*args, **kwargs)

    return checked


def named_settings(cls: type[T]) -> type[T]:
    """Let a dataclass of settings answer unknown ones in the same way: `@named_settings` above `@dataclass`."""
    cls.__init__ = checks_option_names(cls.__init__)  # type: ignore[method-assign]
    return cls


def instead_of(option: str, known: Iterable[str]) -> str:
    """Return the end of a sentence on an option that is not among the known ones."""
    known = list(known)
    if option in TORCH_PRUNING and {"target", "max_ratio"} <= set(known):  # for `prune`, which the answers are about
        return f" (Torch-Pruning's pruners have it); {TORCH_PRUNING[option].replace('`', '')}."
    if option in BUDGETS and "target" in known:
        return f'; give it as the target, such as "{BUDGETS[option]}".'
    return did_you_mean(option, known, f"; there are {', '.join(known)}.")
