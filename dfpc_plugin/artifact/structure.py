"""Find out how a model differs from a freshly built one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from dfpc_plugin.artifact.attributes import OTHERWISE_BUILT, SIDES, Attributes, dtype_of, kept_hooks, numbered
from dfpc_plugin.artifact.deep_equal import paths_of
from dfpc_plugin.artifact.plain import encode
from dfpc_plugin.artifact.reading import UnsavableModelError
from dfpc_plugin.artifact.records import (
    AbsentTensor,
    Kind,
    SavedTensor,
    Structure,
    module_outline,
    registered,
    value_of,
)

__all__ = ["difference_of", "fingerprint_of", "structure_of", "tensors_of"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def structure_of(model: nn.Module, fresh: nn.Module) -> Structure:
    """Describe how `model`, pruned for example, differs from `fresh`, the same as it is built; both stay as they are.

    Raises:
        UnsavableModelError: They are not of the same modules, or differ in something that is no plain data; names where.
    """
    _require_same_modules(model, fresh)
    built = registered(fresh)
    tensors, absent = _registered_of(model, built)
    listed = {entry.name for entry in Structure(tuple(tensors), tuple(absent)).registered}
    odd = sorted(listed.symmetric_difference(built))
    if odd:
        where, other = SIDES if odd[0] in listed else SIDES[::-1]
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
    modules, known = dict(model.named_modules()), paths_of(model)
    for attribute in structure.attributes:
        names = numbered(attribute.module, attribute.name)

        def keep(tensor: Tensor, names: Iterator[str] = names) -> None:
            if id(tensor) not in known:
                found[next(names)] = tensor

        encode(value_of(modules[attribute.module], attribute.name), keep)
    return {name: tensor.detach() for name, tensor in found.items()}


def _require_same_modules(model: nn.Module, fresh: nn.Module) -> None:
    """Raise unless both have modules of the same classes at the same paths, and the model has no hooks."""
    mine, other = module_outline(model), module_outline(fresh)
    for path in mine | other:
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


def fingerprint_of(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of the classes of all modules and of shapes and dtypes of all parameters and buffers."""
    lines = [f"module {path} {kind} {first}" for path, (kind, first) in module_outline(model).items()]
    lines += [
        f"{kind} {name} " + ("none" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}")
        for name, (kind, tensor, _) in registered(model).items()
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()


def difference_of(model: nn.Module, structure: Structure) -> str | None:
    """Say how a model that was built now first differs from the one that a structure was taken of; None if it is not known."""
    then = {entry.name: entry.built for entry in structure.registered}
    now = {name: None if tensor is None else tuple(tensor.shape) for name, (_, tensor, _) in registered(model).items()}
    for name in then | now:
        if name not in now or name not in then:
            return f"'{name}' is there {'now' if name in now else 'no longer'}"
        if then[name] != now[name]:
            return f"'{name}' was {_described(then[name])} and is {_described(now[name])}"
    return None


def _described(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(shape)
