"""A schema in a few words: what a piece of JSON has to be, with exact types.

A check is a function from a value and the place where it is; it raises with that place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dfpc_plugin.artifact.errors import ArtifactError

__all__ = [
    "Check",
    "anything",
    "boolean",
    "either",
    "exactly",
    "listing",
    "mapping",
    "null",
    "number",
    "record",
    "text",
]

Check = Callable[[Any, str], None]


def _fail(where: str, wanted: str, value: Any) -> None:
    shown = repr(value)
    raise ArtifactError(f"{where} must be {wanted}, not {shown if len(shown) <= 40 else shown[:37] + '...'}")


def anything(value: Any, where: str) -> None:
    """Any JSON."""


def boolean(value: Any, where: str) -> None:
    """True or false."""
    if type(value) is not bool:
        _fail(where, "true or false", value)


def null(value: Any, where: str) -> None:
    """Null."""
    if value is not None:
        _fail(where, "null", value)


def number(least: int, most: int) -> Check:
    """A whole number from `least` to `most`."""

    def check(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            _fail(where, f"a whole number from {least} to {most}", value)

    return check


def text(pattern: str = r"(?s).*", wanted: str = "text", longest: int = 10_000) -> Check:
    """Text that a regular expression matches as a whole."""
    compiled = re.compile(pattern)

    def check(value: Any, where: str) -> None:
        if type(value) is not str or len(value) > longest or not compiled.fullmatch(value):
            _fail(where, wanted, value)

    return check


def exactly(*allowed: str) -> Check:
    """One of some words."""

    def check(value: Any, where: str) -> None:
        if type(value) is not str or value not in allowed:
            _fail(where, " or ".join(map(repr, allowed)), value)

    return check


def either(first: Check, second: Check) -> Check:
    """What passes one of two checks; the second says what is wrong."""

    def check(value: Any, where: str) -> None:
        try:
            first(value, where)
        except ArtifactError:
            second(value, where)

    return check


def listing(entry: Check, most: int) -> Check:
    """A list of at most `most` entries that all pass one check."""

    def check(value: Any, where: str) -> None:
        if type(value) is not list or len(value) > most:
            _fail(where, f"a list of at most {most} entries", value)
        for index, item in enumerate(value):
            entry(item, f"{where}[{index}]")

    return check


def mapping(entry: Check, most: int) -> Check:
    """An object with any keys, whose values all pass one check."""

    def check(value: Any, where: str) -> None:
        if type(value) is not dict or len(value) > most:
            _fail(where, f"an object with at most {most} keys", value)
        for key, item in value.items():
            entry(item, f"{where}.{key[:100]}")

    return check


def record(fields: Mapping[str, Check]) -> Check:
    """An object with these keys and no others."""

    def check(value: Any, where: str) -> None:
        if type(value) is not dict:
            _fail(where, "an object", value)
        for key in fields:
            if key not in value:
                raise ArtifactError(f"{where} has no '{key}'")
        for key, item in value.items():
            if key not in fields:
                raise ArtifactError(f"{where} has '{key[:100]}', which is not known")
            fields[key](item, f"{where}.{key}")

    return check
