"""Check plain data against type hints, and make dataclasses and tuples of it."""

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

__all__ = ["PlainDataError", "checked", "did_you_mean", "fields_of", "inside", "to_plain", "wrong"]


T = TypeVar("T")


class PlainDataError(ValueError):
    """A value is not what its type hint says; the message says where, what must be there and what is."""

    @property
    def sentence(self) -> str:
        """The message with its full stop, unless it ends in a question."""
        return str(self) if str(self).endswith("?") else f"{self}."


@overload
def checked(kind: type[T], value: Any, where: str, error: type[Exception] = ...) -> T: ...
@overload
def checked(kind: Any, value: Any, where: str, error: type[Exception] = ...) -> Any: ...
def checked(kind: Any, value: Any, where: str, error: type[Exception] = PlainDataError) -> Any:
    """Return a plain value as its type hint has it: objects become dataclasses, and lists become tuples.

    Known are `Any`, None, bool, int, float, str, `Path`, `Literal`, unions, tuples, lists, mappings with keys of text,
    dataclasses, `TypedDict`, and all of these as `Annotated` with a `Limit`. An object has to have every field of its class,
    and no others.

    Args:
        kind: The type hint.
        value: What JSON, YAML or a caller holds. Instances of a dataclass are taken as they are.
        where: What the value is called in errors; what is in it is called `where.key` and `where[number]`. With '', keys
            of the outermost object go by their own names.
        error: What to raise in place of a `PlainDataError`, with a sentence; without, the message has no full stop.

    Raises:
        Exception: An `error`: the value is something else. Its message says where, what must be there, what is there
            instead, and for a misspelt key or word which one is near.
    """
    try:
        return _read(kind, value, where)
    except PlainDataError as found:
        if error is PlainDataError:
            raise
        raise error(found.sentence) from None


def wrong(where: str, wanted: str, value: Any, hint: str = "") -> PlainDataError:
    """Return the error of a value that is not what is wanted there."""
    return PlainDataError(f"{where} must be {wanted}, not {_shown(value)}" + (f"; {hint}" if hint else ""))


def inside(where: str, key: str) -> str:
    """The path of what an object holds under a key; of the outermost object, '', the key alone."""
    return f"{where}.{key[:100]}" if where else key[:100]


def did_you_mean(name: Any, names: Iterable[Any], otherwise: str = "") -> str:
    """Return the end of a sentence on a name that is not known: the nearest of those that are, or something else."""
    near = difflib.get_close_matches(str(name)[:100], [str(known) for known in names], n=1)
    return f"; did you mean {near[0]}?" if near else otherwise


def to_plain(value: Any) -> Any:
    """Return the same as dicts, lists, numbers and texts, as JSON and YAML have them."""
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
    """A value whose type has limits."""
    found = _read(inner[0], value, where)
    for limit in inner[1:]:
        if not limit.holds(found):
            raise wrong(where, limit.wanted, value, limit.hint)
    return found


def _first_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """A value of one of several types; the last says what is wrong with others."""
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
    """The entries of a list, which all are of one type or each of its own."""
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
    """A dataclass, or a `TypedDict`, of an object that has all of its keys and no others."""
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
"""What errors call a type, and what is taken for it."""


def _simple(kind: Any, value: Any, where: str) -> Any:
    """A value without parts; numbers of other libraries become Python's."""
    if kind not in _SIMPLE:
        raise TypeError(f"{where} has the type hint {kind}, which no plain data is checked against")
    name, accepted = _SIMPLE[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise wrong(where, name, value)
    return value if isinstance(value, kind) or isinstance(value, int) else kind(value)


def _word(words: tuple[Any, ...], value: Any, where: str) -> Any:
    """One of some words or numbers, and not only equal to one, as True is to 1."""
    if any(type(value) is type(word) and value == word for word in words):
        return value
    listed = f"{'one of ' * (len(words) > 1)}{', '.join(map(repr, words))}"
    raise PlainDataError(f"{where} must be {listed}, not {_shown(value)}{did_you_mean(value, words)}")


def _shown(value: Any) -> str:
    """A value in one line that is not long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."
