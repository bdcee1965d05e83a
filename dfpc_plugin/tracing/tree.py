"""Walk the nested arguments and results of torch functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

_PLAIN = (int, float, str, type(None))
_PLAIN_TYPES = frozenset((*_PLAIN, bool))
_SEQUENCES = (tuple, list)


def map_tensors(function: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """Apply `function` to every tensor in nested lists, tuples, dicts and slices, keeping their structure."""
    kind = type(tree)  # called for every operator, so the common cases come first
    if kind in _PLAIN_TYPES:
        return tree
    if kind is tuple:
        return tuple([value if type(value) in _PLAIN_TYPES else map_tensors(function, value) for value in tree])
    if kind is dict and not tree:
        return {}
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, slice):
        return slice(*(map_tensors(function, part) for part in (tree.start, tree.stop, tree.step)))
    if isinstance(tree, dict):
        items = {key: map_tensors(function, value) for key, value in tree.items()}
        return items if type(tree) is dict else _rebuild_mapping(tree, items)
    if isinstance(tree, _PLAIN):
        return tree
    if isinstance(tree, tuple) and hasattr(tree, "n_fields"):  # torch.return_types
        return type(tree)([map_tensors(function, value) for value in tree])
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, tuple | list):
        values = [map_tensors(function, value) for value in tree]
        return values if isinstance(tree, list) else tuple(values)
    return tree


def _rebuild_mapping(original: dict, items: dict) -> Any:
    """Copy a dict subclass with new values (OrderedDict, Hugging Face's outputs)."""
    rebuilt = original.copy()
    rebuilt.update(items)
    return rebuilt


def tensors(tree: Any) -> list[torch.Tensor]:
    """List every tensor in nested lists, tuples, dicts and slices."""
    found: list[torch.Tensor] = []
    _collect(tree, found)
    return found


def _collect(tree: Any, found: list[torch.Tensor]) -> None:
    """Append the tensors of `tree` to `found`; called for every operator, so the common cases come first."""
    if isinstance(tree, _SEQUENCES):
        for value in tree:
            if type(value) not in _PLAIN_TYPES:
                _collect(value, found)
    elif isinstance(tree, dict):
        for value in tree.values():
            if type(value) not in _PLAIN_TYPES:
                _collect(value, found)
    elif isinstance(tree, torch.Tensor):
        found.append(tree)
    elif isinstance(tree, slice):
        _collect((tree.start, tree.stop, tree.step), found)


def returned_tensors(value: Any, _depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the tensors in a model's output: in containers and in objects' attributes, up to six levels deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif _depth < 6:
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list | set) else ()
        for part in (*inner, *getattr(value, "__dict__", {}).values()):
            yield from returned_tensors(part, _depth + 1)
