"""Check plain data against type hints, and convert it to dataclasses and tuples."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

T = TypeVar("T")


class PlainDataError(ValueError):
    """A value does not fit its type hint; the message says where, what is expected and what is there."""

    @property
    def sentence(self) -> str:
        """The message with a full stop, unless it is a question."""
        return str(self) if str(self).endswith("?") else f"{self}."


@overload
def checked(kind: type[T], value: Any, where: str, error: type[Exception] = ...) -> T: ...
@overload
def checked(kind: Any, value: Any, where: str, error: type[Exception] = ...) -> Any: ...
def checked(kind: Any, value: Any, where: str, error: type[Exception] = PlainDataError) -> Any:
    """Return a plain value converted to its type hint: objects become dataclasses, lists become tuples.

    Supported are `Any`, None, bool, int, float, str, `Path`, `Literal`, unions, tuples, lists, mappings with string
    keys, dataclasses, `TypedDict`, and all of these as `Annotated` with a `Limit`. An object must have exactly the
    fields of its class.

    Args:
        kind: The type hint.
        value: A value from JSON, YAML or a caller. Instances of a dataclass are returned as they are.
        where: The value's name in errors; its parts are called `where.key` and `where[number]`. With '', keys of the
            outermost object have their own names.
        error: Raised with a sentence instead of a `PlainDataError`, whose message has no full stop.

    Raises:
        Exception: An `error` if the value does not fit. Its message says where, what is expected, what is there, and
            suggests the nearest word for a misspelt key or word.
    """
    try:
        return _read(kind, value, where)
    except PlainDataError as found:
        if error is PlainDataError:
            raise
        raise error(found.sentence) from None


def wrong(where: str, wanted: str, value: Any, hint: str = "") -> PlainDataError:
    """Return the error for a value that is not what is wanted."""
    return PlainDataError(f"{where} must be {wanted}, not {_shown(value)}" + (f"; {hint}" if hint else ""))


def inside(where: str, key: str) -> str:
    """The path of an object's key; in the outermost object, whose path is '', the key itself."""
    return f"{where}.{key[:100]}" if where else key[:100]


def did_you_mean(name: Any, names: Iterable[Any], otherwise: str = "") -> str:
    """Return the end of a sentence about an unknown name: the nearest known name, or `otherwise`."""
    near = difflib.get_close_matches(str(name)[:100], [str(known) for known in names], n=1)
    return f"; did you mean {near[0]}?" if near else otherwise


def to_plain(value: Any) -> Any:
    """Return the same as dicts, lists, numbers and strings, for JSON and YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


@functools.cache
def fields_of(kind: Any) -> dict[str, Any]:
    """Type hints of the fields of a dataclass, or of the keys of a `TypedDict`."""
    hints = typing.get_type_hints(kind, include_extras=True)
    names = (field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else hints
    return {name: hints[name] for name in names}


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is typing.Annotated:
        return _limited(inner, value, where)
    if origin in (typing.Union, types.UnionType):
        return _first_of(inner, value, where)
    if origin is typing.Literal:
        return _word(inner, value, where)
    if origin is tuple:
        return tuple(_entries(inner, value, where))
    if origin is list:
        return _entries((inner[0], ...), value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _read(inner[1], entry, inside(where, key)) for key, entry in _object(value, where).items()}
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return _record(kind, value, where)
    return _simple(kind, value, where)


def _limited(inner: tuple[Any, ...], value: Any, where: str) -> Any:
    """Check a value of an `Annotated` type with limits."""
    found = _read(inner[0], value, where)
    for limit in inner[1:]:
        if not limit.holds(found):
            raise wrong(where, limit.wanted, value, limit.hint)
    return found


def _first_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """Read a value of a union; if no type fits, the last one raises."""
    others = [kind for kind in kinds if kind is not type(None)]
    if value is None and len(others) < len(kinds):
        return None
    for kind in others[:-1]:
        try:
            return _read(kind, value, where)
        except PlainDataError:
            continue
    return _read(others[-1], value, where)


def _entries(inner: tuple[Any, ...], value: Any, where: str) -> list[Any]:
    """The entries of a list or tuple, of one type or with a type each."""
    if not isinstance(value, list | tuple):
        raise wrong(where, "a list", value)
    alike = len(inner) == 2 and inner[1] is ...
    if not alike and len(value) != len(inner):
        raise wrong(where, f"a list of {len(inner)} entries", value)
    kinds = [inner[0]] * len(value) if alike else inner
    return [
        _read(kind, entry, f"{where}[{index}]") for index, (kind, entry) in enumerate(zip(kinds, value, strict=True))
    ]


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise wrong(where, "an object", value)
    for key in value:
        if not isinstance(key, str):
            raise PlainDataError(f"{where} has the key {_shown(key)}, which is no text")
    return value


def _record(kind: Any, value: Any, where: str) -> Any:
    """A dataclass or `TypedDict` from an object with exactly its keys."""
    if dataclasses.is_dataclass(kind) and isinstance(value, typing.cast(type, kind)):
        return value
    fields, given = fields_of(kind), _object(value, where)
    for name in given:
        if name not in fields:
            raise PlainDataError(f"{where} has '{name[:100]}', which is not known{did_you_mean(name, fields)}")
    for name in fields:
        if name not in given:
            raise PlainDataError(f"{where} has no '{name}'")
    return kind(**{name: _read(fields[name], entry, inside(where, name)) for name, entry in given.items()})


_SIMPLE: dict[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (numbers.Integral,)),
    float: ("a number", (numbers.Real,)),
    str: ("text", (str,)),
    Path: ("a path", (Path, str)),
    type(None): ("null", (type(None),)),
}
"""The name of a type in errors, and the accepted types."""


def _simple(kind: Any, value: Any, where: str) -> Any:
    """Read a value without parts; numbers of other libraries become Python's."""
    if kind not in _SIMPLE:
        raise TypeError(f"{where} has the type hint {kind}, which no plain data is checked against")
    name, accepted = _SIMPLE[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise wrong(where, name, value)
    return value if isinstance(value, kind) or isinstance(value, int) else kind(value)


def _word(words: tuple[Any, ...], value: Any, where: str) -> Any:
    """One of some words or numbers, of the same type: True is not 1."""
    if any(type(value) is type(word) and value == word for word in words):
        return value
    listed = f"{'one of ' * (len(words) > 1)}{', '.join(map(repr, words))}"
    raise PlainDataError(f"{where} must be {listed}, not {_shown(value)}{did_you_mean(value, words)}")


def _shown(value: Any) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."
