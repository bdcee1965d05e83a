"""Find out how a model differs from a freshly built one: in modules, tensors and plain attributes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.artifact.deep_equal import DeepEqual, holds_parts, paths_of
from dfpc_plugin.artifact.plain import DTYPES, NotPlainError, decode, encode
from dfpc_plugin.artifact.reading import UnsavableModelError
from dfpc_plugin.artifact.records import (
    INTERNAL,
    AbsentTensor,
    Attribute,
    Kind,
    SavedTensor,
    Structure,
    held,
    joined,
    module_outline,
    registered,
    value_of,
)

OTHERWISE_BUILT = (
    "a model that was changed after it was built is saved by the function that builds it so, unpruned: "
    'model="package.module:factory". If it was built with options, name them: model=ModelSpec(name, {"option": value}).'
)
"""What to do about a model that is not as its library builds it."""
SIDES = "the model", "a freshly built one"
_TENSORS = (Tensor, nn.Parameter)


class Attributes:
    """Compares attributes, module by module."""

    def __init__(self, model: nn.Module, fresh: nn.Module) -> None:
        """Compare `model` with `fresh`, which has the same modules."""
        self._model, self._fresh = model, fresh
        self._equal = DeepEqual(model, fresh)
        self._paths = paths_of(model)
        self._plain: list[SavedTensor] = []

    def differing(self) -> tuple[tuple[Attribute, ...], list[SavedTensor]]:
        """Attributes that differ, and the tensors in them."""
        found: list[Attribute] = []
        for (path, module), built in zip(self._model.named_modules(), self._fresh.modules(), strict=True):
            mine, other = (_own_attributes(each) for each in (module, built))
            for name in mine | other:
                if name not in mine or name not in other:
                    has, lacks = SIDES if name in mine else SIDES[::-1]
                    raise UnsavableModelError(
                        f"'{joined(path, name)}' is an attribute of {has} and unknown to {lacks}; delete it if a tool "
                        f"or the forward has left it there, or else: {OTHERWISE_BUILT}"
                    )
                if not self._equal(mine[name], other[name]):
                    found += self._attributes(path, name, mine[name], other[name])
        return tuple(found), self._plain

    def _attributes(self, path: str, name: str, mine: Any, other: Any) -> Iterator[Attribute]:
        """Describe an attribute that differs, or what differs in the object that it holds."""
        if type(mine) is type(other) and holds_parts(mine) and vars(mine).keys() == vars(other).keys():
            for part, value in vars(mine).items():
                if not self._equal(value, vars(other)[part]):
                    yield self._attribute(path, f"{name}.{part}", value, vars(other)[part])
        else:
            yield self._attribute(path, name, mine, other)

    def _attribute(self, path: str, name: str, mine: Any, other: Any) -> Attribute:
        names = numbered(path, name)

        def save(tensor: Tensor) -> str:
            if id(tensor) in self._paths:
                return self._paths[id(tensor)]
            key = next(names)
            self._plain.append(SavedTensor(key, tuple(tensor.shape), dtype_of(tensor, key), "plain"))
            return key

        try:
            form = encode(mine, save)
            decode(form, lambda tensor: None)
        except NotPlainError as error:
            raise UnsavableModelError(
                f"'{joined(path, name)}' is not as in a freshly built model and cannot be saved: {error}; {OTHERWISE_BUILT}"
            ) from None
        if type(mine) is not type(other) and mine is not None and other is not None:
            raise UnsavableModelError(
                f"'{joined(path, name)}' is {mine!r}, of type {type(mine).__name__}, where a freshly built model has "
                f"one of type {type(other).__name__}; {OTHERWISE_BUILT}"
            )
        return Attribute(path, name, form)


def dtype_of(tensor: Tensor, name: str) -> str:
    """Name of a tensor's dtype; raise an UnsavableModelError unless it is an ordinary tensor with values."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if type(tensor) not in _TENSORS or tensor.layout != torch.strided or tensor.is_quantized or dtype not in DTYPES:
        raise UnsavableModelError(
            f"'{name}' is a {type(tensor).__name__} of {tensor.dtype}, {tensor.layout}; only ordinary tensors are saved."
        )
    if tensor.is_meta:
        raise UnsavableModelError(f"'{name}' is on the meta device and has no values to save; load weights first.")
    return dtype


def numbered(module: str, name: str) -> Iterator[str]:
    """Names for the tensors of an attribute; no path has a colon before a number."""
    number = 0
    while True:
        yield f"{joined(module, name)}:{number}"
        number += 1


def _own_attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside its tables and beside what it derives."""
    skipped = INTERNAL | derived_names(module)
    return {name: value for name, value in held(module).items() if name not in skipped}


_DERIVED: dict[str, frozenset[str]] = {
    "torchvision.ops.poolers.MultiScaleRoIAlign": frozenset({"scales", "map_levels"}),
    "transformers.modeling_utils.PreTrainedModel": frozenset({"_output_capturing_hooks_installed"}),
    "ultralytics.nn.modules.head.Detect": frozenset({"anchors", "strides", "shape"}),
    "ultralytics.nn.modules.head.RTDETRDecoder": frozenset({"anchors", "valid_mask", "shapes"}),
}
"""Names of such attributes by class; None or those of the class until the first call."""

_DERIVED_HOOKS = frozenset({"transformers.utils.output_capturing"})
"""Modules of libraries whose hooks a model registers at its first call, on itself, and again on a model that is loaded."""


def derived_names(module: nn.Module) -> frozenset[str]:
    """Names of the attributes of `module` that its forward fills again when they are not there or None."""
    kinds = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return frozenset().union(*(_DERIVED.get(kind, frozenset()) for kind in kinds))


def kept_hooks(hooks: Mapping[int, Callable[..., Any]]) -> list[Callable[..., Any]]:
    """Those of a module's hooks that are part of the model: all but what its library registers by itself."""
    return [hook for hook in hooks.values() if getattr(hook, "__module__", None) not in _DERIVED_HOOKS]


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
