"""Settings in messages: as Python spells them, or as the command does that runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

Speller = Callable[[str, Any], str | None]
"""Returns the option of a command for a setting with its value; None if the command has no such option."""
_speller: ContextVar[Speller | None] = ContextVar("speller", default=None)


def setting(name: str, value: Any = None) -> str:
    """Return a setting as the user writes it: `round_to=8`, or `--prune.round_to 8` in a command; without value, its name."""
    speller = _speller.get()
    option = None if speller is None else speller(name, value)
    return option or (name if value is None else f"{name}={value!r}")


def call(function: str, command: str) -> str:
    """Return how the user calls a function: by its name, or by `command` at the command line."""
    return function if _speller.get() is None else f"dfpc {command}"


@contextlib.contextmanager
def spelt_by(speller: Speller) -> Iterator[None]:
    """Let messages name the options of a command."""
    token = _speller.set(speller)
    try:
        yield
    finally:
        _speller.reset(token)
