"""The bare argument of a command: the one that is no option, and no option's value."""

from __future__ import annotations

import typing
from collections.abc import Sequence

__all__ = ["FILES", "bare_argument"]

FILES = (".yaml", ".yml")
"""How a file of options ends."""
_FLAGS = ("-h", "help", "print_config")


def bare_argument(arguments: Sequence[str], config: type) -> int | None:
    """Return where the first bare argument behind a command is; None where there is none. Options are spelt with _."""
    position = 0
    while position < len(arguments) and arguments[position].startswith("-"):
        position += 1 + _taken(arguments[position], arguments[position + 1 :], config)
    return position if position < len(arguments) else None


def _taken(option: str, behind: Sequence[str], config: type) -> int:
    """How many of the arguments behind an option are its values; a file of options is none of several values."""
    name, equals, _ = option.removeprefix("--").partition("=")
    kind = typing.get_type_hints(config).get(name.removeprefix("no_"))
    if equals or kind is bool or name in _FLAGS or name.endswith(".help"):
        return 0
    if typing.get_origin(kind) is tuple:
        ends = (place for place, value in enumerate(behind) if value.startswith("-") or value.endswith(FILES))
        return next(ends, len(behind))
    return 1
