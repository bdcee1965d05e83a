"""Configuration files: read once before they are believed, for errors that name the line or the key."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dfpc_plugin.cli.options import misplaced, nearest
from dfpc_plugin.errors import DFPCError, system_reason

__all__ = ["ConfigFileError", "check_config_file"]

_LARGEST = 2**17
_LONGEST = 10_000
_MOST_VALUES = 10_000
_MISPLACED = {
    "unknown": "has the key '{key}', which means nothing; ",
    "no section": "has no options in '{key}'; write them below it, as key: value.",
    "no list": "has no list in '{key}'; write one, as [first, second].",
}


class ConfigFileError(DFPCError):
    """A configuration file that cannot be read, or that has keys which mean nothing."""


class _Loader(yaml.SafeLoader):
    """Reads plain values only, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        known: set[str] = set()
        for key in keys:
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no text", node.start_mark)
            if key in known:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", node.start_mark)
            known.add(key)
        return super().construct_mapping(node, deep)


def check_config_file(path: str, config: type, options: list[str]) -> None:
    """Raise if a file is no YAML with keys that a dataclass has fields for, and suggest one of `options`."""
    content = _read(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigFileError(
            f"'{path}' holds a {type(content).__name__}; a configuration file holds options, as key: value."
        )
    _require_small(path, content)
    for key, problem in misplaced(content, config):
        near = nearest(key, options) if problem == "unknown" else None
        hint = f"did you mean '{near}'?" if near else "see --help for the options there are."
        raise ConfigFileError(f"'{path}' {_MISPLACED[problem].format(key=key)}{hint if problem == 'unknown' else ''}")


def _read(path: str) -> Any:
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        raise ConfigFileError(f"The configuration file '{path}' cannot be read: {system_reason(error)}.") from error
    if len(data) > _LARGEST:
        raise ConfigFileError(f"'{path}' has more than {_LARGEST} bytes; no configuration file is that large.")
    try:
        return yaml.load(data.decode(), _Loader)
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"'{path}' is no text in UTF-8 ({error}); save it as such.") from error
    except yaml.YAMLError as error:
        raise ConfigFileError(f"'{path}' is no YAML: {_place_of(error)}.") from error
    except (RecursionError, ValueError, OverflowError) as error:  # nesting without end, dates and numbers beyond all
        raise ConfigFileError(f"'{path}' cannot be understood: {error}.") from error


def _place_of(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return problem if mark is None else f"{problem} in line {mark.line + 1}"


def _require_small(path: str, content: Mapping[Any, Any]) -> None:
    """Raise if a value is very long or large, or if there are very many, as a few lines of YAML that refer to each other can make."""
    left, waiting = _MOST_VALUES, [content]
    while waiting:
        value: Any = waiting.pop()
        if isinstance(value, str) and len(value) > _LONGEST:
            raise ConfigFileError(
                f"'{path}' holds a value of {len(value)} characters, '{value[:20]}...'; no option takes that."
            )
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ConfigFileError(f"'{path}' holds the number {str(value)[:20]}..., which is too large for any option.")
        inner = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
        left -= len(inner)
        if left < 0:
            raise ConfigFileError(f"'{path}' holds more than {_MOST_VALUES} values; no configuration file does.")
        waiting.extend(inner)
