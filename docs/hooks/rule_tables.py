"""Tables of the operators that have a rule, from the registry itself, while the documentation is being built.

A page asks with a comment: `<!-- rules: table -->` becomes the tables, `<!-- rules: totals -->` a sentence on how many
operators they have.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from dfpc_plugin import registered_rules
from dfpc_plugin.tracing.operator import Rule, function_name
from table_markdown import plain, table

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
    return markdown.replace("<!-- rules: table -->", "\n\n".join(_sections()))


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
    return table(
        ["Operators", "Convention", "What the rule computes"],
        [
            (" ".join(f"`{name}`" for name in operators), convention, plain(summary))
            for (convention, summary), operators in rows.items()
        ],
    )


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
