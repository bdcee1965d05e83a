"""Give a freshly built model the shapes, tensors, ties and attributes of another."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.artifact.deep_equal import holds_parts
from dfpc_plugin.artifact.plain import NotPlainError, decode
from dfpc_plugin.artifact.reading import ArtifactError
from dfpc_plugin.artifact.records import (
    INTERNAL,
    AbsentTensor,
    Attribute,
    SavedTensor,
    Structure,
    held,
    joined,
    registered,
    value_of,
)


def restructure(fresh: nn.Module, structure: Structure, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Make of `fresh`, in place, the model that `structure` was taken of, with `tensors` as its own; return it.

    Parameters stay the same objects where they can, so that other references to them hold.

    Raises:
        ArtifactError: The structure is not of such a model, or the tensors are not those it names; `fresh` is unchanged.
    """
    _require_same_names(fresh, structure)
    _require_tensors(structure, tensors)
    modules = dict(fresh.named_modules())
    for attribute in structure.attributes:
        _require_attribute(modules, attribute)
    with torch.inference_mode(False), torch.no_grad():
        placed = _Placed(fresh, structure, tensors)
        for path, module in modules.items():
            placed.register(path, module)
        for attribute in structure.attributes:
            _set(modules[attribute.module], attribute.name, decode(attribute.value, placed.tensor))
    return fresh


def _require_same_names(fresh: nn.Module, structure: Structure) -> None:
    listed = {entry.name for entry in structure.registered}
    built = registered(fresh)
    unknown, missing = sorted(listed.difference(built)), sorted(set(built).difference(listed))
    if unknown:
        raise ArtifactError(f"it lists '{unknown[0]}', which a freshly built model has no place for")
    if missing:
        raise ArtifactError(f"it does not list '{missing[0]}', which a freshly built model has")


def _require_tensors(structure: Structure, tensors: Mapping[str, Tensor]) -> None:
    """Raise unless there is one tensor for every entry that is no alias, of its shape and dtype, and no other."""
    wanted = {entry.name: entry for entry in structure.tensors if entry.alias_of is None}
    odd = sorted(set(wanted).symmetric_difference(tensors))
    if odd:
        raise ArtifactError(
            f"there is no tensor '{odd[0]}'" if odd[0] in wanted else f"'{odd[0]}' is not in the list of tensors"
        )
    for name, entry in wanted.items():
        found = tensors[name]
        if (tuple(found.shape), str(found.dtype)) != (entry.shape, f"torch.{entry.dtype}"):
            raise ArtifactError(
                f"'{name}' is {tuple(found.shape)} of {found.dtype}, and is listed as {entry.shape} of {entry.dtype}"
            )
        if entry.requires_grad and not (found.is_floating_point() or found.is_complex()):
            raise ArtifactError(f"'{name}' is of {entry.dtype}, which has no gradient")


def _require_attribute(modules: Mapping[str, nn.Module], attribute: Attribute) -> None:
    """Raise unless a module has such an attribute, and of that type."""
    where = f"'{joined(attribute.module, attribute.name)}'"
    module = modules.get(attribute.module)
    if module is None:
        raise ArtifactError(f"it sets {where}, and a freshly built model has no module '{attribute.module}'")
    first, _, part = attribute.name.partition(".")
    known = first not in INTERNAL and first in held(module) and not first.startswith("__") and not part.startswith("__")
    if not known or (part and not (holds_parts(held(module)[first]) and part in vars(held(module)[first]))):
        raise ArtifactError(f"it sets {where}, which is no attribute that a freshly built model has")
    try:
        value = decode(attribute.value, lambda name: torch.empty(0))
    except NotPlainError as error:
        raise ArtifactError(f"its value of {where} is not plain: {error}") from None
    built = value_of(module, attribute.name)
    tensors = isinstance(built, Tensor) and isinstance(value, Tensor)
    if not (built is None or value is None or type(built) is type(value) or tensors):
        raise ArtifactError(
            f"it sets {where} to a value of type {type(value).__name__}, where a freshly built model has one of type {type(built).__name__}"
        )


def _set(module: nn.Module, name: str, value: Any) -> None:
    """Give a module an attribute, or another object in one, as the one that is there may be that of other models, too."""
    first, _, part = name.partition(".")
    if part:
        changed = copy.copy(held(module)[first])
        vars(changed)[part] = value
        value = changed
    vars(module)[first] = value


class _Placed:
    """Tensors of a structure as objects of a model: its own where they can be."""

    def __init__(self, fresh: nn.Module, structure: Structure, tensors: Mapping[str, Tensor]) -> None:
        """Give the tensors of `fresh` their new values, and make those that it lacks."""
        self._values = dict(tensors)
        self._objects: dict[str, Tensor] = {}
        ties: dict[str, list[SavedTensor]] = defaultdict(list)
        for entry in structure.tensors:
            if entry.kind != "plain":
                ties[entry.alias_of or entry.name].append(entry)
        built, names = registered(fresh), defaultdict(set)
        for name, (_, tensor, _) in built.items():
            names[id(tensor)].add(name)
        for first, entries in ties.items():
            own, value, parameter = built[first][1], tensors[first], entries[0].kind == "parameter"
            same = own is not None and names[id(own)] == {entry.name for entry in entries}
            same &= own is not None and isinstance(own, nn.Parameter) == parameter and own.is_leaf
            if own is not None and same and torch._has_compatible_shallow_copy_type(own, value):  # not on all devices
                own.requires_grad_(False)
                own.data = value
            else:
                own = nn.Parameter(value, False) if parameter else value
            own.requires_grad_(entries[0].requires_grad)
            self._objects |= {entry.name: own for entry in entries}
        self._by_module: dict[str, list[SavedTensor | AbsentTensor]] = defaultdict(list)
        for place in structure.registered:
            self._by_module[place.name.rpartition(".")[0]].append(place)

    def register(self, path: str, module: nn.Module) -> None:
        """Fill the tables of one module, in the order of the structure."""
        module._parameters.clear()
        module._buffers.clear()
        module._non_persistent_buffers_set.clear()
        for entry in self._by_module[path]:
            name = entry.name.rpartition(".")[2]
            tensor = self._objects.get(entry.name)
            if entry.kind == "parameter":
                module._parameters[name] = tensor  # type: ignore[assignment]
            else:
                module._buffers[name] = tensor
                if not entry.persistent:
                    module._non_persistent_buffers_set.add(name)

    def tensor(self, name: str) -> Tensor:
        """The tensor of an attribute."""
        return self._objects[name] if name in self._objects else self._values[name]
