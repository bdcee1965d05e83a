"""A command's options: what they are called, those of nested sections by dotted paths, and what is said of them."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import docstring_parser

__all__ = ["descriptions", "nearest", "not_lists", "not_sections", "option_names", "section_type", "unknown_keys"]


def section_type(kind: Any) -> type | None:
    """The dataclass that a type is, or is unless it is None; None for other types."""
    choices = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    found = [choice for choice in choices if dataclasses.is_dataclass(choice) and isinstance(choice, type)]
    return found[0] if len(found) == 1 else None


def option_names(config: type) -> Iterator[str]:
    """All options of a dataclass, sections and what is in them included."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        yield field.name
        section = section_type(hints[field.name])
        if section is not None:
            yield from (f"{field.name}.{inner}" for inner in option_names(section))


def descriptions(config: type) -> dict[str, str]:
    """What docstrings say of the fields of a dataclass, those of its base classes included, and the names that they take."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        parameters = docstring_parser.parse(base.__doc__ or "").params if dataclasses.is_dataclass(base) else []
        found |= {parameter.arg_name: " ".join((parameter.description or "").split()) for parameter in parameters}
    for field in dataclasses.fields(config):
        choices = field.metadata.get("choices", {}).items()
        found[field.name] += "".join(f" {name}: {entry.summary}." for name, entry in choices)
    return found


def unknown_keys(content: Mapping[Any, Any], config: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of keys that a dataclass has no field for."""
    hints = typing.get_type_hints(config)
    known = {field.name for field in dataclasses.fields(config)}
    for key, value in content.items():
        path = f"{prefix}{key}"
        section = section_type(hints[key]) if key in known else None
        if key not in known:
            yield path
        elif section is not None and isinstance(value, Mapping):
            yield from unknown_keys(value, section, f"{path}.")


def not_sections(content: Mapping[Any, Any], config: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of sections that hold something else than options; None is allowed where it is the default."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        section, value = section_type(hints[field.name]), content.get(field.name, {})
        if section is None or (value is None and hints[field.name] is not section):
            continue
        if isinstance(value, Mapping):
            yield from not_sections(value, section, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def not_lists(content: Mapping[Any, Any], config: type) -> Iterator[str]:
    """Yield the options of several values that hold something else than a list."""
    hints = typing.get_type_hints(config)
    for name, value in content.items():
        if typing.get_origin(hints.get(name)) is tuple and value is not None and not isinstance(value, list):
            yield name


def nearest(typed: str, names: list[str]) -> str | None:
    """The option that was probably meant: one of the same section, or of the same last name anywhere, or near by its letters."""
    section, _, last = typed.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == section}
    near = difflib.get_close_matches(last, siblings, n=1)
    if near:
        return siblings[near[0]]
    elsewhere = [name for name in names if name.rpartition(".")[2] == last]
    by_letters = (
        [] if section and siblings else difflib.get_close_matches(typed, names, n=1)
    )  # its section alone is no likeness
    return next(iter(elsewhere or by_letters), None)
