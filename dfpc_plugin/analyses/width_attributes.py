"""Widths that modules state in attributes, and the tensors that can confirm them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from dfpc_plugin.tracing.sizes import Expression

INFO = "feature_info"
"""The attribute in which a model lists its features."""

WIDTH = "num_chs"
"""The key of the width in an entry of that list."""


class Place(NamedTuple):
    """Where a pass sees tensors: `what` is "in" for a module's arguments, "out" for its output.

    "features" is the output of its `forward_features`, "intermediates" that of its `forward_intermediates`. `number` says
    which of several tensors; None for any of them, or all together.
    """

    module: str
    what: str
    number: int | None = None


@dataclass(frozen=True)
class StatedWidth:
    """The width, in terms of labels, that attribute `name` (or entry `entry` of that list) of a module states.

    While no tensor has confirmed it, it is a number alone, `value`, with the places where a tensor of that width may be seen,
    the likeliest first; `expression` is None.
    """

    module: str
    name: str
    entry: int | None
    expression: Expression | None
    value: int = 0
    places: tuple[Place, ...] = ()


def statements_of(modules: Mapping[str, nn.Module], path: str) -> Iterator[StatedWidth]:
    """Yield every width that a module states about its features and its heads."""
    module = modules[path]
    if isinstance(module, torch.jit.ScriptModule):
        return
    prefix = f"{path}." if path else ""
    info = list(_of_feature_info(modules, path, prefix))
    yield from info
    if not callable(getattr(type(module), "forward_features", None)):
        return
    features = Place(path, "features")
    classifiers = [name for name in _paths_of_classifiers(modules, module) if name.startswith(prefix)]
    heads = tuple(Place(name, "in") for name in classifiers)
    patches = tuple(
        Place(prefix + name, "out") for name, _ in module.named_children() if name.startswith("patch_embed")
    )
    yield from _of_integer(modules, path, "num_features", (features, *heads))
    yield from _of_integer(modules, path, "head_hidden_size", (*heads, features))
    yield from _of_integer(modules, path, "embed_dim", (*patches, features))
    for name in ("embed_dim", "embed_dims"):
        yield from _of_stages(modules, path, name, features, [statement.places for statement in info])
    for name in classifiers:
        parts = name.removeprefix(prefix).split(".")
        for head in (prefix + ".".join(parts[:count]) for count in range(1, len(parts))):
            yield from _of_integer(modules, head, "in_features", (Place(head, "in"),))
            for attribute in ("num_features", "hidden_size", "embed_dim"):
                yield from _of_integer(modules, head, attribute, (Place(name, "in"),))


def _of_integer(
    modules: Mapping[str, nn.Module], path: str, name: str, places: tuple[Place, ...]
) -> Iterator[StatedWidth]:
    value = vars(modules[path]).get(name)
    if type(value) is int:
        yield StatedWidth(path, name, None, None, value, places)


def _of_stages(
    modules: Mapping[str, nn.Module], path: str, name: str, features: Place, places: Sequence[tuple[Place, ...]]
) -> Iterator[StatedWidth]:
    """Widths in a list with an integer per branch of the features, or per entry of `feature_info`."""
    value: Any = vars(modules[path]).get(name)
    if type(value) in (list, tuple):
        for entry, width in enumerate(value):
            if type(width) is int:
                own = places[entry] if len(places) == len(value) else ()
                yield StatedWidth(path, name, entry, None, width, (*own, features._replace(number=entry)))


def _of_feature_info(modules: Mapping[str, nn.Module], path: str, prefix: str) -> Iterator[StatedWidth]:
    """Widths in `feature_info`: of the named modules' outputs and, if it says which features are returned, of these."""
    info: Any = vars(modules[path]).get(INFO)
    parts = getattr(info, "__dict__", {})
    entries, indices = parts.get("info", info), parts.get("out_indices", ())
    if type(entries) not in (list, tuple) or type(indices) not in (list, tuple):
        return
    returned = [number % len(entries) for number in indices if entries]
    for entry, content in enumerate(entries):
        if type(content) is dict and type(content.get(WIDTH)) is int:
            places = [Place(path, "out", returned.index(entry))] if entry in returned else []
            name, hook = f"{prefix}{content.get('module')}", content.get("hook_type", "")
            places += [Place(name, "in" if hook == "forward_pre" else "out")] if name in modules else []
            yield StatedWidth(path, INFO, entry, None, content[WIDTH], tuple(places))


def _paths_of_classifiers(modules: Mapping[str, nn.Module], module: Any) -> list[str]:
    if not callable(getattr(type(module), "get_classifier", None)):
        return []
    try:
        found = module.get_classifier()
    except Exception:  # the head was removed, or the method means something else
        return []
    listed = [*found] if isinstance(found, tuple | list | nn.ModuleList) else [found]
    wanted = {id(layer) for layer in listed}
    return [path for path, layer in modules.items() if id(layer) in wanted]
