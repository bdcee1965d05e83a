"""Fill the generated parts of the documentation while it is being built.

A page asks for one with a comment: `<!-- rules: table -->` becomes the tables of the operators that have a rule,
`<!-- rules: totals -->` a sentence on how many they are. Both come from the registry itself, so they cannot be wrong
about it. `<!-- recipe: schema -->` becomes a table for each section of a recipe, from the dataclasses that read it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import typing
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import docstring_parser

from dfpc_plugin import Recipe, registered_rules
from dfpc_plugin.cli.options import section_type
from dfpc_plugin.flow.registry import Rule, function_name

_HOME = "dfpc_plugin.flow.rules"
_KINDS = {
    "linear": "Layers that mix channels",
    "elementwise": "Entry by entry",
    "normalization": "Normalisation",
    "pooling": "Pooling, resampling and reductions",
    "attention": "Products and attention",
    "recurrent": "Recurrent layers",
    "shape": "Moving entries",
}
_TITLE_LENGTH = 45
_INDEXING = {"getitem": "x[...]", "setitem": "x[...] = y"}


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Replace the comments; called by MkDocs for every page."""
    markdown = markdown.replace("<!-- rules: totals -->", _totals())
    markdown = markdown.replace("<!-- recipe: schema -->", "\n\n".join(_schema(Recipe, "")))
    return markdown.replace("<!-- rules: table -->", "\n\n".join(_sections()))


def _schema(section: type, prefix: str) -> Iterable[str]:
    """Return a table of the options of a section, and those of the sections in it."""
    hints, meanings = typing.get_type_hints(section), _meanings(section)
    rows, inner = ["| Key | Kind | Default | |", "|---|---|---|---|"], []
    for field in dataclasses.fields(section):
        found = section_type(hints[field.name])
        default = _default(field)
        if found is not None:
            inner.append((found, f"{prefix}{field.name}."))
            optional = hints[field.name] is not found
            kind, default = "section", "`null`" if optional else ""
        else:
            kind = _kind_of(hints[field.name])
        rows.append(f"| `{prefix}{field.name}` | {kind} | {default} | {_plain(meanings[field.name])} |")
    title = f"### {prefix.rstrip('.')}" if prefix else "### At the top"
    yield f"{title}\n\n" + "\n".join(rows)
    for found, path in inner:
        yield from _schema(found, path)


def _meanings(section: type) -> dict[str, str]:
    """What the docstring says of each option."""
    parameters = docstring_parser.parse(inspect.getdoc(section) or "").params
    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in parameters}


def _default(field: Any) -> str:
    """An option's default as it is written in YAML; '' for one that has to be given."""
    value = field.default
    if callable(field.default_factory):
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return ""
    written = {None: "null", True: "true", False: "false"}
    if isinstance(value, tuple):
        value = list(value)
    return f"`{written[value] if value is None or isinstance(value, bool) else value}`"


def _kind_of(hint: Any) -> str:
    """A type in words."""
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", dict: "mapping"}
    choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " ".join(f"`{choice}`" for choice in choices)
    if origin is tuple:
        return f"list of {_kind_of(choices[0])}s"
    if origin is dict:
        return names[dict]
    return _kind_of(choices[0]) if choices else names[hint]


def _totals() -> str:
    rules = registered_rules()
    names = {_operator(function) for function in rules}
    return f"{len(names)} operators have a rule, in {len(rules)} spellings (function, method, in place, operator)."


def _sections() -> Iterable[str]:
    """Return one section per kind of operator, with what its module says about the kind."""
    by_kind: dict[str, list[tuple[Callable[..., Any], Rule]]] = {}
    for function, rule in registered_rules().items():
        by_kind.setdefault(_kind(rule), []).append((function, rule))
    for kind in sorted(by_kind, key=lambda kind: [*_KINDS, kind].index(kind)):
        module = importlib.import_module(f"{_HOME}.{kind}")
        title = _KINDS.get(kind, kind.capitalize())
        yield f"## {title}\n\n{_introduction(module)}\n\n{_table(by_kind[kind])}"


def _kind(rule: Rule) -> str:
    return rule.function.__module__.rpartition(".")[2]


def _introduction(module: Any) -> str:
    """Return a module's docstring without a first line that only repeats the title.

    An indented formula becomes a code block of plain text.
    """
    text = inspect.getdoc(module) or ""
    first, _, rest = text.partition("\n\n")
    text = rest if len(first) < _TITLE_LENGTH else text
    return re.sub(r"(?m)((?:^ {4}.*\n?)+)", lambda m: f"\n```text\n{inspect.cleandoc(m[1])}\n```\n", text)


def _table(entries: list[tuple[Callable[..., Any], Rule]]) -> str:
    """Return one row per rule that says something of its own."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for function, rule in entries:
        rows.setdefault((rule.convention.value, rule.summary), Counter())[_operator(function)] += 1
    lines = ["| Operators | Convention | What the rule computes |", "|---|---|---|"]
    for (convention, summary), operators in rows.items():
        names = " ".join(f"`{name}`" for name in operators)
        lines.append(f"| {names} | {convention} | {_plain(summary)} |")
    return "\n".join(lines)


def _operator(function: Callable[..., Any]) -> str:
    """Return the name that an operator's function, method, in-place form and symbol share."""
    name = function_name(function).rpartition(".")[2]
    inner = re.fullmatch(r"__(\w+)__", name)
    if inner:
        name = inner[1]
        arithmetic = re.fullmatch(r"[ir](add|sub|mul|truediv|div|pow|matmul)", name)
        name = arithmetic[1] if arithmetic else name
    name = name.strip("_").removeprefix("linalg_")
    return _INDEXING.get(name, name)


def _plain(text: str) -> str:
    """Escape what Markdown would read into a formula, outside of back-quoted names."""
    parts = text.split("`")
    for position, part in enumerate(parts):
        if position % 2:
            parts[position] = f"`{part}`"
        else:
            parts[position] = re.sub(r"[\\*_|<>\[\]~^&]", lambda match: f"&#{ord(match[0])};", part)
    return "".join(parts)
