"""A notebook for every tutorial, made from its page while the documentation is being built.

Python blocks become cells of code, files become `%%writefile` cells, and everything else stays Markdown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_FENCE = re.compile(r"(?ms)^(?P<indent> *)```(?P<info>[^`\n]+)\n(?P<code>.*?)^(?P=indent)```$")
_TITLE = re.compile(r'title="([\w.-]+)"')
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")
_FOLDER = "tutorials/"


def on_files(files: Files, config: Any, **kwargs: Any) -> Files:
    """Add the notebooks to the site; called by MkDocs."""
    for page in list(files.documentation_pages()):
        if page.src_uri.startswith(_FOLDER):
            text = Path(page.abs_src_path).read_text(encoding="utf-8")
            name = page.src_uri.removesuffix(".md") + ".ipynb"
            files.append(File.generated(config, name, content=json.dumps(notebook(text), indent=1)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Link a tutorial to its notebook; called by MkDocs for every page."""
    if not page.file.src_uri.startswith(_FOLDER):
        return markdown
    title, _, rest = markdown.partition("\n")
    name = Path(page.file.src_uri).with_suffix(".ipynb").name
    return f"{title}\n\n[Download this page as a notebook]({name})\n{rest}"


def notebook(page: str) -> dict[str, Any]:
    """Return a page as a notebook, in version 4.5 of Jupyter's format."""
    return {
        "cells": list(_cells(page)),
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cells(page: str) -> Iterator[dict[str, Any]]:
    """Yield the cells; a block in a list, or one that cannot run, stays where it is in the text."""
    text, end = "", 0
    for number, block in enumerate(_FENCE.finditer(page)):
        title, info = _TITLE.search(block["info"]), block["info"].strip()
        runs = info == "python"
        if not runs and title is None:
            continue
        text += page[end : block.start()]
        if text.strip():
            yield _cell("markdown", _LINK.sub(r"\1", text.strip()), number)
        text, end = "", block.end()
        code = re.sub(rf"(?m)^{block['indent']}", "", block["code"]).rstrip("\n")
        yield _cell("code", code if runs or title is None else f"%%writefile {title[1]}\n{code}", number)
    if page[end:].strip():
        yield _cell("markdown", _LINK.sub(r"\1", page[end:].strip()), -1)


def _cell(kind: str, source: str, number: int) -> dict[str, Any]:
    """A cell, whose name follows from what it holds, so that the same page gives the same file."""
    name = hashlib.sha256(f"{number} {kind} {source}".encode()).hexdigest()[:12]
    made: dict[str, Any] = {"cell_type": kind, "id": name, "metadata": {}, "source": source.splitlines(keepends=True)}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})
