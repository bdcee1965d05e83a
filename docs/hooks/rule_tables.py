"""Tables of the operators that are known, from the registry itself, while the documentation is being built.

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
from dfpc_plugin.tracing.operator import Operator, function_name
from table_markdown import plain, table

_HOME = "dfpc_plugin.ops"
_KINDS = {
    "linear": "Linear layers",
    "convolution": "Convolutions",
    "recurrent": "Recurrent layers",
    "attention": "Attention",
    "products": "Products of matrices",
    "compositions": "Distances, products of vectors, and recurrent cells",
    "pointwise": "Functions of single entries",
    "arithmetic": "Sums and products entry by entry",
    "normalization": "Normalisation",
    "pooling": "Pooling, padding and resampling",
    "reduction": "Reductions and losses",
    "moves": "Moving and copying entries",
    "shape": "Changing shapes",
    "joining": "Joining tensors",
    "indexing": "Indexing",
    "writing": "Writing entries",
    "fourier": "Fourier transforms",
    "vision": "Operators of torchvision",
}
"""Modules with records, in the order of the page, and the titles of their tables."""

_TITLE_LENGTH = 45
_INDEXING = {"getitem": "x[...]", "setitem": "x[...] = y"}


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Replace the comments; called by MkDocs for every page."""
    markdown = markdown.replace("<!-- rules: totals -->", _totals())
    return markdown.replace("<!-- rules: table -->", "\n\n".join(_sections()))


def _totals() -> str:
    records = registered_rules()
    names = {_name(function) for function in records}
    return (
        f"{len(names)} operators are known, in {len(records)} spellings (function, method, in place, Python operator)."
    )


def _sections() -> Iterable[str]:
    """Return one section per module of records, with what the module says about its operators."""
    by_module: dict[str, list[tuple[Callable[..., Any], Operator]]] = {}
    for function, record in registered_rules().items():
        by_module.setdefault(_module(record), []).append((function, record))
    for name in sorted(by_module, key=list(_KINDS).index):
        module = importlib.import_module(f"{_HOME}.{name}")
        yield f"## {_KINDS[name]}\n\n{_introduction(module)}\n\n{_table(by_module[name])}"


def _module(record: Operator) -> str:
    """Return the module that a record is written in."""
    return record.bound.__module__.rpartition(".")[2]


def _introduction(module: Any) -> str:
    """Return a module's docstring without a first line that only repeats the title.

    An indented formula becomes a code block of plain text.
    """
    text = inspect.getdoc(module) or ""
    first, _, rest = text.partition("\n\n")
    text = rest if len(first) < _TITLE_LENGTH else text
    return re.sub(r"(?m)((?:^ {4}.*\n?)+)", lambda m: f"\n```text\n{inspect.cleandoc(m[1])}\n```\n", text)


def _table(entries: list[tuple[Callable[..., Any], Operator]]) -> str:
    """Return one row per formula."""
    rows: dict[tuple[str, str, str], Counter[str]] = {}
    for function, record in entries:
        rows.setdefault((_convention(record), _channels(record), record.summary), Counter())[_name(function)] += 1
    return table(
        ["Operators", "Convention", "Channels", "What the rule computes"],
        [
            (" ".join(f"`{name}`" for name in names), convention, channels, plain(summary))
            for (convention, channels, summary), names in rows.items()
        ],
    )


def _convention(record: Operator) -> str:
    return "by its parts" if record.kind == "composed" else record.convention.value


def _channels(record: Operator) -> str:
    if record.kind == "composed":
        return "by its parts"
    return "protected" if record.channels is None else "followed"


def _name(function: Callable[..., Any]) -> str:
    """Return the name that an operator's function, method, in-place form and symbol share."""
    name = function_name(function).rpartition(".")[2]
    inner = re.fullmatch(r"__(\w+)__", name)
    if inner:
        name = inner[1]
        arithmetic = re.fullmatch(
            r"[ir]?(add|sub|mul|truediv|floordiv|div|mod|pow|matmul|and|or|xor|lshift|rshift)", name
        )
        name = arithmetic[1] if arithmetic else name
    name = name.strip("_").removeprefix("linalg_")
    return _INDEXING.get(name, name)
