"""Prose is spelt as dictionaries of common mistakes have it, and in British English."""

import re
from pathlib import Path

import pytest
from doc_pages import PAGES

codespell = pytest.importorskip("codespell_lib")

ROOT = Path(__file__).parents[2]
CHECKED = [*PAGES, ROOT / "CHANGELOG.md"]
NAMES = {"fro"}
"""Words that are names: a norm of torch's."""
OURS = {"artifact", "artifacts", "program", "programs"}
"""Words of the trade, which are spelt so in Britain, too."""


def american():
    """American spellings of words that have a British one."""
    path = Path(codespell.__file__).with_name("data") / "dictionary_en-GB_to_en-US.txt"
    spellings = [line.partition("->")[2] for line in path.read_text(encoding="utf-8").splitlines()]
    return {word.strip() for line in spellings for word in line.split(",") if word.strip()}


def prose(text):
    """A page without code, links, addresses and media queries."""
    text = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|https?://\S+|prefers-color-scheme", "", text)


def test_no_common_mistakes(capsys):
    paths = [*CHECKED, ROOT / "mkdocs.yml", ROOT / "dfpc_plugin", ROOT / "examples"]
    options = [
        "--builtin",
        "clear,rare",
        "--ignore-words-list",
        ",".join(NAMES),
        "--skip",
        "*.safetensors,*.json,*.svg",
    ]
    code = codespell.main(*options, *map(str, paths))
    assert code == 0, capsys.readouterr().out


def test_british_spelling():
    words = american() - OURS
    assert {"color", "normalization", "center"} <= words
    found = [
        f"{page.name}: {word}"
        for page in CHECKED
        for word in re.findall(r"[A-Za-z]+", prose(page.read_text(encoding="utf-8")))
        if word.lower() in words
    ]
    assert not found
