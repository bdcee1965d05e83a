"""Tables of options, from the dataclasses that read them, while the documentation is being built.

A page asks with a comment: `<!-- recipe: schema -->` becomes a table for each section of a recipe,
`<!-- command: NAME -->` one of the options of `dfpc NAME`, and `<!-- torch-pruning: options -->` one of what replaces the
options of Torch-Pruning's pruners.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from dfpc_plugin import Recipe
from dfpc_plugin.arguments import TORCH_PRUNING
from dfpc_plugin.cli import COMMANDS, MAIN_OPTIONS
from dfpc_plugin.cli.options import descriptions, section_type
from table_markdown import plain, table

_KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", dict: "mapping"}
_PLACEHOLDERS = {"FILE": "file", "DIR": "directory", "JSON": "JSON"}
"""What a placeholder in a command's help says of the kind."""


@dataclass(frozen=True)
class _Option:
    """A field of a dataclass, as it is documented; `section` is the dataclass that the field holds, if it holds one."""

    name: str
    hint: Any
    default: Any
    meaning: str
    section: type | None
    placeholder: str


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Replace the comments; called by MkDocs for every page."""
    markdown = markdown.replace("<!-- recipe: schema -->", "\n\n".join(_schema(Recipe, "")))
    markdown = markdown.replace("<!-- torch-pruning: options -->", _of_torch_pruning())
    return re.sub(r"(?m)^<!-- command: (\w+) -->$", lambda found: _command(found[1]), markdown)


def _of_torch_pruning() -> str:
    """Return a table of Torch-Pruning's options, those with the same answer in one row."""
    names: dict[str, list[str]] = {}
    for name, answer in TORCH_PRUNING.items():
        names.setdefault(answer, []).append(f"`{name}`")
    rows = ((", ".join(same), plain(answer[0].upper() + answer[1:])) for answer, same in names.items())
    return table(("Torch-Pruning", "`prune`"), rows)


def _options(config: type) -> Iterator[_Option]:
    """Yield what a dataclass holds."""
    hints, meanings = typing.get_type_hints(config), descriptions(config)
    for field in dataclasses.fields(config):
        default = field.default_factory() if callable(field.default_factory) else field.default
        hint, placeholder = hints[field.name], field.metadata.get("metavar", "")
        yield _Option(field.name, hint, default, plain(meanings[field.name]), section_type(hint), placeholder)


def _schema(section: type, prefix: str) -> Iterable[str]:
    """Return a table of the keys of a section, and those of the sections in it."""
    options = list(_options(section))
    rows = [
        (
            f"`{prefix}{option.name}`",
            "section" if option.section else _kind(option.hint),
            _in_yaml(option),
            option.meaning,
        )
        for option in options
    ]
    title = f"### {prefix.rstrip('.')}" if prefix else "### At the top"
    yield f"{title}\n\n{table(['Key', 'Kind', 'Default', 'Meaning'], rows)}"
    for option in options:
        if option.section is not None:
            yield from _schema(option.section, f"{prefix}{option.name}.")


def _in_yaml(option: _Option) -> str:
    """An option's default as a recipe has it; '' for one that has to be given, and for a section that has its own."""
    value = option.default
    if value is MISSING or (option.section is not None and value is not None):
        return ""
    written = {None: "null", True: "true", False: "false"}
    if isinstance(value, tuple):
        value = list(value)
    return f"`{written[value] if value is None or isinstance(value, bool) else value}`"


def _command(name: str) -> str:
    """Return a table of the options of a command; sections are one row each, and a link to their keys."""
    rows = [
        (_typed(option), _typed_kind(option), _typed_default(option), option.meaning)
        for option in _options(COMMANDS[name][0])
    ]
    if name in MAIN_OPTIONS:
        meaning = f"The same as `--{MAIN_OPTIONS[name]}`; a file that ends in .yaml or .yml is the same as `--config`."
        rows.insert(0, ("`MODEL` `RECIPE.yaml`", "model or file", "", meaning))
    return table(["Option", "Kind", "Default", "Meaning"], rows)


def _typed(option: _Option) -> str:
    """An option as it is typed."""
    if option.section is not None:
        return f"`--{option.name}.*`"
    if option.default is MISSING:
        return "`MODEL ...`" if typing.get_origin(option.hint) is tuple else "`MODEL`"
    return f"`--{option.name}` `--no_{option.name}`" if option.default is True else f"`--{option.name}`"


def _typed_kind(option: _Option) -> str:
    """What is typed behind an option, in words."""
    if option.section is not None:
        return f"[section](recipes.md#{option.name})"
    if option.default is MISSING:
        return "one or more models" if typing.get_origin(option.hint) is tuple else "model"
    if option.hint is bool:
        return "flag"
    return _PLACEHOLDERS.get(option.placeholder) or _kind(option.hint, several="one or more")


def _typed_default(option: _Option) -> str:
    """An option's default as it would be typed, of a section what it has that other commands do not; '' for nothing."""
    value = option.default
    if value is MISSING:
        return "" if option.section else "required"
    if option.section is not None and value is not None:
        usual, own = vars(option.section()), vars(value)
        return " ".join(f"`{name}: {own[name]}`" for name in own if own[name] != usual[name])
    if isinstance(value, bool):
        return f"`--{option.name}`" if value else ""
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    return "" if value in (None, "", {}) else f"`{value}`"


def _kind(hint: Any, several: str = "list of") -> str:
    """A type in words; `several` is what stands before those of which there are many."""
    choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " ".join(f"`{choice}`" for choice in choices)
    if origin is tuple:
        return f"{several} {_kind(choices[0])}s"
    if origin is dict:
        return _KINDS[dict]
    return _kind(choices[0], several) if choices else _KINDS[hint]
