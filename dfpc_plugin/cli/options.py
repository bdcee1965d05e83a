"""A command's options: what they are called, those of nested sections by dotted paths, and what is said of them."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import docstring_parser

__all__ = ["descriptions", "misplaced", "nearest", "option_names", "section_type"]


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


def misplaced(content: Mapping[Any, Any], config: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted paths of keys that do not fit a dataclass, and why: "unknown", "no section" or "no list".

    A section may be None where it is optional. In sections, lists are checked with their values.
    """
    hints, known = typing.get_type_hints(config), {field.name for field in dataclasses.fields(config)}
    for key, value in content.items():
        path, kind = f"{prefix}{key}", hints.get(key)
        section = section_type(kind)
        if key not in known:
            yield path, "unknown"
        elif section is None:
            if typing.get_origin(kind) is tuple and value is not None and not isinstance(value, list) and not prefix:
                yield path, "no list"
        elif isinstance(value, Mapping):
            yield from misplaced(value, section, f"{path}.")
        elif value is not None or kind is section:
            yield path, "no section"


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
