"""Digests of what cells depend on: the model, the code and settings of criteria, the code of scores, and images.

Stored cells of another digest are out of date.
"""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from torch import Tensor

from dfpc_plugin.files import raw_bytes

_LIBRARIES = frozenset(("builtins", "torch", "torch_pruning", "dfpc_plugin"))
_OF_THE_FILE = frozenset(("__module__", "__doc__", "__firstlineno__", "__static_attributes__"))
"""What a class has that says nothing of what it does."""
_EXAMPLES = 8
Parts = tuple[str, Iterable[Any]]
"""What an object adds to the digest itself, and the objects that it consists of."""


def digest_of(own: Any) -> str:
    """Return a digest of a function, an object or plain data, 16 hexadecimal digits.

    It covers the bytecode, with functions, classes and constants of the same module that the code names, and every attribute,
    default and closure. The name of a file, its lines and comments do not matter. Code of other modules is not covered.
    """
    return hashlib.sha256("\n".join(_texts(own, [])).encode()).hexdigest()[:16]


def digest_of_score(score: Any) -> str:
    """Return a digest of the code of a function that scores models; what it closes over, such as images, is not covered."""
    return digest_of(getattr(score, "__code__", type(score)))


def digest_of_images(images: Any) -> str:
    """Return a digest of images, or of pairs of image and label: of eight of them, and of their number.

    It is empty for streams, and for images that differ from one reading to the next.
    """
    images = getattr(images, "dataset", images)  # of a DataLoader
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
        return ""
    count = len(images)
    chosen = [number * count // _EXAMPLES for number in range(_EXAMPLES)] if count else []
    first, second = (digest_of([count, *(images[number] for number in chosen)]) for _ in range(2))
    return first if first == second else ""


def _texts(own: Any, seen: list[Any]) -> Iterator[str]:
    """All texts of an object and its parts, each object once."""
    if any(own is other for other in seen):
        return
    text, parts = _parts_of(own)
    yield text
    if not isinstance(own, bool | int | float | str | bytes | None):
        seen.append(own)
    for part in parts:
        yield from _texts(part, seen)


@functools.singledispatch
def _parts_of(own: Any) -> Parts:
    """Any object: its class and its attributes; plain data, as it is written."""
    attributes = getattr(own, "__dict__", None)
    if attributes is None:
        return re.sub(r" at 0x\w+", "", repr(own)), ()
    return "object", (type(own), attributes)


@_parts_of.register
def _of_tensor(own: Tensor) -> Parts:
    return f"{own.dtype} {tuple(own.shape)} {hashlib.sha256(raw_bytes(own)).hexdigest()}", ()


@_parts_of.register
def _of_mapping(own: Mapping) -> Parts:  # type: ignore[type-arg]
    return f"mapping of {len(own)}", (part for pair in own.items() for part in pair)


@_parts_of.register(Sequence)
def _of_sequence(own: Sequence[Any]) -> Parts:
    return (repr(own), ()) if isinstance(own, str | bytes | range) else (f"sequence of {len(own)}", own)


@_parts_of.register(Set)
def _of_set(own: Set[Any]) -> Parts:
    return f"set of {sorted(map(repr, own))}", ()


@_parts_of.register
def _of_partial(own: functools.partial) -> Parts:  # type: ignore[type-arg]
    return "partial", (own.func, own.args, own.keywords)


@_parts_of.register
def _of_method(own: types.MethodType) -> Parts:
    return "method", (own.__func__, own.__self__)


@_parts_of.register
def _of_class(own: type) -> Parts:
    """Its name, and what it and its bases define, except those of libraries."""
    own_bases = (base for base in own.__mro__ if base.__module__.partition(".")[0] not in _LIBRARIES)
    defined = (value for base in own_bases for name, value in vars(base).items() if name not in _OF_THE_FILE)
    kinds = (types.FunctionType, staticmethod, classmethod, property, bool, int, float, str)
    return f"{own.__module__}.{own.__qualname__}", [value for value in defined if isinstance(value, kinds)]


@_parts_of.register(staticmethod)
@_parts_of.register(classmethod)
def _of_wrapped(own: Any) -> Parts:
    return type(own).__name__, (own.__func__,)


@_parts_of.register
def _of_property(own: property) -> Parts:
    return "property", (own.fget,)


@_parts_of.register
def _of_function(own: types.FunctionType) -> Parts:
    """Its code, defaults and closure, and what the code names in its own module."""
    closure = [cell.cell_contents for cell in own.__closure__ or () if cell != types.CellType()]
    named = [own.__globals__[name] for name in _names(own.__code__) if name in own.__globals__]
    beside = [
        value for value in named
        if isinstance(value, bool | int | float | str | tuple)
        or (isinstance(value, types.FunctionType | type) and value.__module__ == own.__module__)
    ]  # fmt: skip
    return "function", (own.__code__, own.__defaults__, own.__kwdefaults__, closure, beside)


@_parts_of.register
def _of_code(own: types.CodeType) -> Parts:
    return f"{own.co_code.hex()} {own.co_names} {own.co_varnames}", own.co_consts


def _names(code: types.CodeType) -> list[str]:
    """Every name that the code looks up, in functions inside it, too."""
    inner = (name for part in code.co_consts if isinstance(part, types.CodeType) for name in _names(part))
    return [*code.co_names, *inner]
