"""Arguments that a function does not take, lacks, or takes in another type; and what stands for an option of Torch-Pruning."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import Any, ParamSpec, TypeVar

from dfpc_plugin.errors import ArgumentError, OptionNameError
from dfpc_plugin.plain_data import Checked, did_you_mean, wrong

_TARGET = 'give a target: `"ratio=0.3"`, `"macs=0.5"`, `"params=0.5"`, `"speedup=1.5"` or `"max_drop=2"`'
_BY_LAYER = "leave it out, or use `DFPCPruner`, which has it"
_LIMIT = "give `max_ratio`, a hard limit for every coupling"
_FOUND = "leave it out: heads and groups are found in the model"
TORCH_PRUNING = {
    "pruning_ratio": _TARGET,
    "ch_sparsity": _TARGET,
    "pruning_ratio_dict": _BY_LAYER,
    "ch_sparsity_dict": _BY_LAYER,
    "max_pruning_ratio": _LIMIT,
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

_OTHERS = TORCH_PRUNING | {
    "sparsity": _TARGET,
    "max_ch_sparsity": _LIMIT,
    "accuracy": "give max_drop, the loss of accuracy to allow, and evaluate, a function that measures it",
    "flops": 'give `"macs=0.5"`: the share of the MACs to keep is that of the FLOPs',
}

BUDGETS: dict[str, str] = {}
"""An example of every budget of a target, by its name; declared with the budgets."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def checks_arguments(function: Callable[P, R], *, types: bool = True, owner: Any = None) -> Callable[P, R]:
    """Let a function check its arguments before it is called.

    It answers options that it does not have with `OptionNameError`, and with `ArgumentError` arguments that are missing, and
    (with `types`) paths, functions and settings of another type than their annotation's. `owner` has the annotations, if not
    the function itself.
    """
    signature = inspect.signature(function)
    known = [name for name in signature.parameters if name != "self"]
    parameters = signature.parameters.items()
    variadic = any(own.kind is own.VAR_KEYWORD for _, own in parameters)
    needed = [own for own, p in parameters if own in known and p.default is p.empty and p.kind not in _VARIADIC]
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        unknown = next((option for option in kwargs if option not in known), None)
        if unknown is not None and not variadic:
            where = _in_settings(owner or function, unknown)
            raise OptionNameError(f"{name} has no option '{unknown}'{instead_of(unknown, known, where)}")
        try:
            given = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise ArgumentError(
                f"{name} cannot be called so ({error}): {name}({', '.join(_by_position(signature))})."
            ) from None
        missing = [own for own in needed if own not in given]
        if missing:
            raise ArgumentError(f"{name} needs {' and '.join(missing)}, too: {name}({', '.join(needed)}).")
        for own, kinds in _types_by_name(function).items() if types else ():
            if own in given and not isinstance(given[own], kinds):
                wanted = " or ".join(
                    _WORDS.get(one, f"of the type {one.__name__}") for one in kinds if one is not _NONE
                )
                raise ArgumentError(wrong(own, wanted, given[own]).sentence)
        return function(*args, **kwargs)

    return checked


_NONE = type(None)
_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
_WORDS: dict[type, str] = {str: "text", os.PathLike: "a path", Callable: "a function", bool: "true or false"}  # type: ignore[dict-item]


def _by_position(signature: inspect.Signature) -> list[str]:
    """The parameters that are given by position, and a sign that others need their names."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [own for own, parameter in signature.parameters.items() if parameter.kind in kinds and own != "self"]
    return found if len(found) == len(signature.parameters) else [*found, "option=..."]


@functools.cache
def _types_by_name(function: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """The types of the parameters that take paths, functions or settings, and nothing that is checked elsewhere."""
    hints = typing.get_type_hints(function, include_extras=True)
    return {name: found for name, hint in hints.items() if name != "return" and (found := _types_of(hint))}


def _types_of(hint: Any) -> tuple[type, ...]:
    """The types of an annotation; none if one of them cannot be checked, or has its own check."""
    union = typing.get_origin(hint) in (typing.Union, UnionType)
    parts = [typing.get_origin(part) or part for part in (typing.get_args(hint) if union else (hint,))]
    found = [os.PathLike if part is Path else part for part in parts]
    special = [part for part in found if part in (os.PathLike, Callable) or _is_own_class(part)]
    by_name = str in found and os.PathLike not in found  # a method or a model by its name has its own error
    plain = () if by_name else (str, bool, _NONE)
    return tuple(found) if special and all(part in (*plain, *special) for part in found) else ()


def _is_own_class(part: Any) -> bool:
    return isinstance(part, type) and part.__module__.partition(".")[0] == __name__.partition(".")[0]


def named_settings(cls: type[T]) -> type[T]:
    """Let a dataclass of settings answer unknown ones in the same way: `@named_settings` above `@dataclass`."""
    cls.__init__ = checks_arguments(cls.__init__, types=False, owner=cls)  # type: ignore[method-assign]
    return cls


def _in_settings(owner: Any, option: str) -> str:
    """Which argument of a function or class has the option among its settings, as it is written; empty if none has."""
    for name, hint in typing.get_type_hints(owner).items():
        for kind in typing.get_args(hint) or (hint,):
            if isinstance(kind, type) and issubclass(kind, Checked) and dataclasses.is_dataclass(kind):
                own = f"{option}=..." if option in kind.__dataclass_fields__ else _in_settings(kind, option)
                if own and name != "return":
                    return f"{name}={kind.__name__}({own})"
    return ""


def instead_of(option: str, known: Iterable[str], where: str = "") -> str:
    """Return the end of a sentence on an option that is not among the known ones; `where` is the argument that has it."""
    known = list(known)
    prunes = "max_ratio" in known and (
        "target" in known or "budgets" in known
    )  # `prune` and `compare`, which takes its options
    if option in _OTHERS and prunes:
        return in_our_words(option)
    if option in BUDGETS and "target" in known:
        return f'; give it as the target, such as "{BUDGETS[option]}".'
    if where:
        return f"; it belongs to the settings: {where}."
    return did_you_mean(option, known, f"; there are {', '.join(known)}.")


def in_our_words(name: str) -> str:
    """Return the end of a sentence on a name from Torch-Pruning or another tool; empty for other names."""
    origin = " (Torch-Pruning's pruners have it)" if name in TORCH_PRUNING else ""
    return f"{origin}; {_OTHERS[name].replace('`', '')}." if name in _OTHERS else ""
