"""A model as data beside its code: its tensors, which of them are shared, and attributes unlike a freshly built model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from dfpc_plugin.artifact.plain import DTYPES
from dfpc_plugin.models import BUILT_AS
from dfpc_plugin.plain_data import at_most, matching, one_of, within

Kind = Literal["parameter", "buffer"]
MANY = at_most(1_000_000)
Name = Annotated[str, at_most(1000)]
_Shape = Annotated[tuple[Annotated[int, within(0, 2**48)], ...], at_most(32)]
_AttributeName = Annotated[str, matching(r"[^\W\d]\w*(\.[^\W\d]\w*)?", "the name of an attribute", 200)]

INTERNAL = frozenset(vars(nn.Module())) | {BUILT_AS}
"""What every module has: tables, hooks and the training flag; and the note of how it was built."""


@dataclass(frozen=True)
class SavedTensor:
    """One tensor of a model.

    Attributes:
        name: Dotted path; of a tensor that is no parameter and no buffer, the attribute that holds it and a number.
        shape: Its shape.
        dtype: Such as "float32".
        kind: How the module holds it; "plain" in an attribute.
        persistent: Whether a state dict has it.
        requires_grad: Whether it is trained.
        alias_of: The name under which the same tensor is listed before.
        built: Shape in a freshly built model; None if that has no tensor there.
    """

    name: Name
    shape: _Shape
    dtype: Annotated[str, one_of(DTYPES)]
    kind: Kind | Literal["plain"]
    persistent: bool = True
    requires_grad: bool = False
    alias_of: Name | None = None
    built: _Shape | None = None


@dataclass(frozen=True)
class AbsentTensor:
    """A parameter or buffer that a module could have, and has not, such as the bias of a layer without one."""

    name: Name
    kind: Kind
    persistent: bool = True
    built: _Shape | None = None


@dataclass(frozen=True)
class Attribute:
    """A plain attribute that is not as in a freshly built model.

    Attributes:
        module: Dotted path of the module.
        name: Name of the attribute; of one that is an object of which a part differs, with a dot and the name of that.
        value: Its plain form: see `plain.encode`.
    """

    module: Name
    name: _AttributeName
    value: Any


@dataclass(frozen=True)
class Structure:
    """What `restructure` gives to a freshly built model, but for the values of tensors.

    Attributes:
        tensors: All tensors, module by module.
        absent: Parameters and buffers that are None.
        attributes: Attributes that differ.
    """

    tensors: Annotated[tuple[SavedTensor, ...], MANY]
    absent: Annotated[tuple[AbsentTensor, ...], MANY] = ()
    attributes: Annotated[tuple[Attribute, ...], MANY] = ()

    @property
    def registered(self) -> tuple[SavedTensor | AbsentTensor, ...]:
        """Parameters and buffers that are there and that could be; no tensors in attributes."""
        return (*(entry for entry in self.tensors if entry.kind != "plain"), *self.absent)


def joined(module: str, name: str) -> str:
    """The dotted path of something in a module."""
    return f"{module}.{name}" if module else name


def held(module: nn.Module) -> dict[str, Any]:
    """What a module has in attributes: values that its classes declare, where it does not have its own in their place."""
    kinds = [kind for kind in type(module).__mro__ if issubclass(kind, nn.Module) and kind is not nn.Module]
    declared = {name: value for kind in reversed(kinds) for name, value in vars(kind).items()}
    return {  # no methods, no properties, and nothing that Python keeps about a class
        name: value
        for name, value in declared.items()
        if not (name.startswith("__") or callable(value) or hasattr(type(value), "__get__"))
    } | vars(module)


def value_of(module: nn.Module, name: str) -> Any:
    """What a module has in an attribute, by the name that an `Attribute` has for it."""
    first, _, part = name.partition(".")
    value = held(module)[first]
    return vars(value)[part] if part else value


def registered(model: nn.Module) -> dict[str, tuple[Kind, Tensor | None, bool]]:
    """Kind, tensor and persistence of all that modules have or could have as parameter or buffer, by path."""
    result: dict[str, tuple[Kind, Tensor | None, bool]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            result[joined(path, name)] = "parameter", parameter, True
        for name, buffer in module._buffers.items():
            result[joined(path, name)] = "buffer", buffer, name not in module._non_persistent_buffers_set
    return result


def module_outline(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Class of every module by path, and the first path of the same module."""
    first: dict[nn.Module, str] = {}
    return {
        path: (type(module).__name__, first.setdefault(module, path))
        for path, module in model.named_modules(remove_duplicate=False)
    }
