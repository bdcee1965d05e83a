"""A command's options: what they are called, those of nested sections by dotted paths, and how people spell them."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import docstring_parser


def section_type(kind: Any) -> type | None:
    """The dataclass that a type is, or is unless it is None; None for other types."""
    choices = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    found = [choice for choice in choices if dataclasses.is_dataclass(choice) and isinstance(choice, type)]
    return found[0] if len(found) == 1 else None


@functools.cache
def option_types(config: type) -> dict[str, Any]:
    """The types of all options of a dataclass by their names, sections and what is in them included."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        found[field.name] = hints[field.name]
        section = section_type(hints[field.name])
        if section is not None:
            found |= {f"{field.name}.{inner}": kind for inner, kind in option_types(section).items()}
    return found


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
    """The option that was probably meant: one of its name in any section, one of the same section, or near by its letters."""
    section, _, last = typed.rpartition(".")
    elsewhere = [name for name in names if name.rpartition(".")[2] == last]
    if elsewhere and not section:
        return min(elsewhere, key=lambda name: name.count("."))
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == section}
    near = difflib.get_close_matches(last, siblings, n=1)
    if near:
        return siblings[near[0]]
    by_letters = (
        [] if section and siblings else difflib.get_close_matches(typed, names, n=1)
    )  # its section alone is no likeness
    return next(iter(elsewhere or by_letters), None)


_TRUTHS = ("true", "false", "yes", "no")
_GUESSES = {
    "options.num_classes": ("num_classes", "num_class", "classes", "class_num", "n_classes", "nb_classes", "nclasses"),
    "options.in_chans": ("in_chans", "in_channels", "channels", "input_channels", "n_channels", "num_channels"),
    "weights": ("checkpoint", "checkpoint_path", "initial_checkpoint", "ckpt", "ckpt_path", "model_path", "state_dict"),
    "onnx": ("output", "out", "output_file", "file"),
    "size": ("img_size", "image_size", "input_size", "imgsz", "resolution"),
    "target macs=": ("macs", "flops"),
    "target params=": ("params", "parameters"),
    "target ratio=": ("ratio", "pruning_ratio", "sparsity", "ch_sparsity", "amount"),
    "target speedup=": ("speedup", "speed_up"),
    "target max_drop=": ("max_drop", "drop"),
}
"""Options of ours by what programs like this one call them; one that ends in = is followed by the value."""


def with_underscores(arguments: Sequence[str]) -> Iterator[str]:
    """Spell options as the keys of a configuration file are: --batch-size becomes --batch_size."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        yield name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def respelt(arguments: Sequence[str], config: type) -> list[str]:
    """Spell the options of the model as the command has them, and give switches of sections their value.

    Where the model is a section, `--weights` is `--model.weights`; where it is an argument, the other way round.
    """
    types = option_types(config)
    counts = Counter(name.rpartition(".")[2] for name in types)
    found = []
    for place, argument in enumerate(arguments):
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--"):
            name = _own(name, types, counts)
            following = next(iter(arguments[place + 1 :]), "")
            if "." in name and not equals and types.get(name) is bool and following.lower() not in _TRUTHS:
                equals, value = "=", "true"
            argument = f"--{name}{equals}{value}"
        found.append(argument)
    return found


def _own(name: str, names: Collection[str], counts: Counter[str]) -> str:
    """What the command calls an option of the model; other names stay."""
    first = name.partition(".")[0]
    if first not in names and counts[first] == 1 and f"model.{first}" in names:
        return f"model.{name}"
    inner = name.removeprefix("model.")
    return inner if first == "model" and "model.name" not in names and inner.partition(".")[0] in names else name


MEANT = {"repair": "method", "data": "val", "model": "name", "latency": "runtime", "prune": "importance"}
"""The option of each section that a bare value is most likely for."""


def as_option(config: type, name: str, value: Any = None) -> str | None:
    """Return a command's option for a setting, by its name in Python or in a recipe, and its value if there is one.

    None if no option has the name, or several have.
    """
    types = option_types(config)
    paths = [name] if name in types else [path for path in types if path.rpartition(".")[2] == name]
    if len(paths) != 1:
        return None if paths else guessed(name, "" if value is None else str(value), list(types))
    path = f"{paths[0]}.{MEANT[name]}" if section_type(types[paths[0]]) and name in MEANT else paths[0]
    if value is False and "." not in path:
        return f"--no_{path}"
    return (
        f"--{path}" if value is None or value is True else f"--{path} {str(value).lower() if value is False else value}"
    )


def how_to_give_several(arguments: Sequence[str], config: type, message: str) -> str:
    """Return a sentence if `message` is about an option of several values that were not separated as they have to be."""
    for place, argument in enumerate(arguments[:-1]):
        path = argument.removeprefix("--")
        if argument.startswith("--") and typing.get_origin(option_types(config).get(path)) is tuple:
            parts = list(filter(None, re.split(r"[,;+\s]+", arguments[place + 1].strip("[]()"))))
            if len(parts) > 1 and any(part in message for part in parts):
                several = f"'[{', '.join(parts)}]'" if "." in path else " ".join(parts)
                return f" Write several values as --{path} {several}."
    return ""


def guessed(typed: str, value: str, options: Sequence[str]) -> str | None:
    """The option that users of other programs mean by `typed`, with `value` if there is one; None if nobody knows."""
    last = typed.rpartition(".")[2]
    found = next((option for option, guesses in _GUESSES.items() if last in guesses), None)
    if found is None:
        return None
    if found == "onnx" and value.endswith(".pt2"):
        found = "program"
    first = found.partition(" ")[0].partition(".")[0]
    prefix = next((f"--{prefix}" for prefix in ("", "model.") if prefix + first in options), None)
    if prefix is None:
        return None
    return prefix + found + (value or "0.5" if found.endswith("=") else f" {value}".rstrip())


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
