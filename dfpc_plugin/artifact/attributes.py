"""Plain attributes of modules that are not as in a freshly built model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.artifact.deep_equal import DeepEqual, holds_parts, paths_of
from dfpc_plugin.artifact.plain import DTYPES, NotPlainError, decode, encode
from dfpc_plugin.artifact.reading import UnsavableModelError
from dfpc_plugin.artifact.records import INTERNAL, Attribute, SavedTensor, held, joined

__all__ = ["OTHERWISE_BUILT", "SIDES", "Attributes", "derived_names", "dtype_of", "kept_hooks", "numbered"]

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
        """Describe an attribute that differs."""
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
