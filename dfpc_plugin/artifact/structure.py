"""Find out how a model differs from a freshly built one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from dfpc_plugin.artifact.alike import paths_of
from dfpc_plugin.artifact.attributes import OTHERWISE_BUILT, Attributes, dtype_of, numbered
from dfpc_plugin.artifact.derived import kept_hooks
from dfpc_plugin.artifact.errors import UnsavableModelError
from dfpc_plugin.artifact.plain import encode
from dfpc_plugin.artifact.records import (
    AbsentTensor,
    Attribute,
    Kind,
    SavedTensor,
    Structure,
    module_outline,
    registered,
    value_of,
)

__all__ = ["AbsentTensor", "Attribute", "SavedTensor", "Structure", "structure_of", "tensors_of"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def structure_of(model: nn.Module, fresh: nn.Module) -> Structure:
    """Describe how `model` differs from `fresh`, both of which stay as they are.

    Args:
        model: A model, pruned for example.
        fresh: The same model as it is built, not on the meta device.

    Raises:
        UnsavableModelError: They are not of the same modules, or differ in something that is no plain data; names where.
    """
    _require_same_modules(model, fresh)
    built = registered(fresh)
    tensors, absent = _registered_of(model, built)
    listed = {entry.name for entry in Structure(tuple(tensors), tuple(absent)).registered}
    odd = sorted(listed.symmetric_difference(built))
    if odd:
        where, other = (
            ("the model", "a freshly built one") if odd[0] in listed else ("a freshly built one", "the model")
        )
        raise UnsavableModelError(
            f"'{odd[0]}' is a parameter or buffer of {where} and unknown to {other}; {OTHERWISE_BUILT}"
        )
    attributes, plain = Attributes(model, fresh).differing()
    return Structure((*tensors, *plain), tuple(absent), attributes)


def tensors_of(model: nn.Module, structure: Structure) -> dict[str, Tensor]:
    """Return the tensors of a model by the names that its structure has for them, without aliases.

    They are the model's own, or detached views of these.
    """
    own = {name: tensor for name, (_, tensor, _) in registered(model).items() if tensor is not None}
    found = {entry.name: own[entry.name] for entry in structure.tensors if entry.kind != "plain" and not entry.alias_of}
    modules = dict(model.named_modules())
    for attribute in structure.attributes:
        names = numbered(attribute.module, attribute.name)
        known = paths_of(model)

        def keep(tensor: Tensor, names: Iterator[str] = names, known: Mapping[int, str] = known) -> None:
            if id(tensor) not in known:
                found[next(names)] = tensor

        encode(value_of(modules[attribute.module], attribute.name), keep)
    return {name: tensor.detach() for name, tensor in found.items()}


def _require_same_modules(model: nn.Module, fresh: nn.Module) -> None:
    """Raise unless both have modules of the same classes at the same paths, and the model has no hooks."""
    mine, other = module_outline(model), module_outline(fresh)
    for path in (*mine, *(path for path in other if path not in mine)):
        if mine.get(path) != other.get(path):
            here, there = (
                "nothing" if found is None else found[0] if found[1] == path else f"the same as '{found[1]}'"
                for found in (mine.get(path), other.get(path))
            )
            raise UnsavableModelError(
                f"The model has {here} at '{path}', where a freshly built one has {there}; {OTHERWISE_BUILT}"
            )
    if list(mine) != list(other):
        raise UnsavableModelError(
            f"The model has its modules in another order than a freshly built one; {OTHERWISE_BUILT}"
        )
    for (path, module), built in zip(model.named_modules(), fresh.modules(), strict=True):
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsavableModelError(f"'{path}' is compiled to TorchScript; save the model before that is done.")
        for table in _HOOKS:
            if len(kept_hooks(getattr(module, table))) > len(kept_hooks(getattr(built, table))):
                raise UnsavableModelError(
                    f"'{path or type(module).__name__}' has a forward hook, which is code and cannot be saved; remove it "
                    f"first, and register it again on the loaded model."
                )


def _registered_of(
    model: nn.Module, built: Mapping[str, tuple[Kind, Tensor | None, bool]]
) -> tuple[list[SavedTensor], list[AbsentTensor]]:
    """Parameters and buffers of a model, and those that it could have."""
    tensors: list[SavedTensor] = []
    absent: list[AbsentTensor] = []
    first: dict[int, str] = {}
    for name, (kind, tensor, persistent) in registered(model).items():
        other = built[name][1] if name in built else None
        shape = None if other is None else tuple(other.shape)
        if tensor is None:
            absent.append(AbsentTensor(name, kind, persistent, shape))
            continue
        alias = first.get(id(tensor))
        first.setdefault(id(tensor), name)
        requires_grad = tensor.requires_grad and tensor.is_leaf
        tensors.append(
            SavedTensor(
                name, tuple(tensor.shape), dtype_of(tensor, name), kind, persistent, requires_grad, alias, shape
            )
        )
    return tensors, absent
