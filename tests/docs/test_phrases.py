"""Pages, options, messages and docstrings are in plain English: none has a phrase that made readers stumble before."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT

PHRASES = {
    r"multiply-accumulates?": "MACs",
    r"times fewer|x fewer": "MACs reduced 1.5x",
    r"mend(s|ed|ing)?\b(?!:)": "repair, or update (attributes)",
    r"(are|is|be|been|has|have|what) gone\b": "removed, pruned",
    r"goes away|go away": "is deleted",
    r"(may|can|must|that|which|what|to) go\b(?! (through|to|into|on|with|together|back|beyond|up|down|wrong|by|as))": "can be pruned",
    r"what (is|was) left\b|of what is left": "remaining",
    r"(make|makes|made) good": "compensate for",
    r"make up for": "compensate for",
    r"bare cuts?\b": "without repair",
    r"hand(s|ed)? itself over": "dispatches",
    r"stands? in for": "replaces",
    r"goes along|went along|go along": "is pruned with",
    r"is picked (from )?by": "is read by a fixed index",
    r"meets? entries": "is combined with",
    r"names no (budget|target)": "Unknown target",
    r"lacks? what": "name what is missing",
    r"does not care": "does not depend on",
    r"as mere tensors": "tensors only, no code",
    r"(stands?|standing) or falls?": "are pruned together",
    r"(have|has|had) to do with": "depends on",
    r"comes? to lie": "is placed",
    r"is anybody's": "may raise anything",
    r"who (reads|writes|asks)": "which layers read, which layers write",
    r"at unit size": "assumed of size one",
}
"""Regular expressions of phrases, with a better wording; where "|" parts them, any of them is meant."""

ONLY_PAGES = {
    r"\bunits? (are|is) left": "remaining channels",
    r"\bspread of\b": "interquartile range",
    r"\btake turns\b": "are measured in turns",
    r"step sizes?\b": "learning rate",
}
"""Phrases that pages may not have; code calls some things by these names."""

ONLY_CODE = {r"entry by entry": "element by element", r"(what|that) meets?\b": "are combined, are united"}
"""Phrases that the package may not have."""

PACKAGE = sorted((ROOT / "dfpc_plugin").rglob("*.py"))


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a page, outside of blocks of code and code within lines, with the number of their line."""
    text = page.read_text(encoding="utf-8")
    blank = re.sub(r"(?ms)^ *```.*?^ *```", lambda block: "\n" * block[0].count("\n"), text)
    blank = re.sub(r"`[^`\n]*`|\]\([^)]*\)|<[^>]*>", lambda code: "\n" * code[0].count("\n") or " _ ", blank)
    line = 1
    for part in re.split(r"(\n\s*\n)", blank):
        yield line, " ".join(part.split())
        line += part.count("\n")


def strings(module: Path) -> Iterator[tuple[int, str]]:
    """Yield docstrings and texts of messages of a module: literals of several words, with the number of their line."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "_" for part in node.values)
            yield node.lineno, " ".join("".join(map(str, parts)).split())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, " ".join(re.sub(r"`[^`]*`", "_", node.value).split())


def found(where: Path, texts: Iterator[tuple[int, str]], phrases: dict[str, str]) -> list[str]:
    """List what a text may not have, and what to write in its place."""
    return [
        f"{where.relative_to(ROOT)}:{line}: {hit[0]!r}; write {better!r}"
        for line, text in texts
        for phrase, better in phrases.items()
        if (hit := re.search(rf"\b(?:{phrase})", text, re.IGNORECASE))
    ]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "examples" / "README.md"], ids=lambda page: page.name)
def test_pages_have_none_of_the_phrases(page):
    assert not found(page, prose(page), PHRASES | ONLY_PAGES)


def test_the_unreleased_changes_have_none_of_the_phrases():
    page = ROOT / "CHANGELOG.md"
    assert not found(page, prose(page), PHRASES)


def test_docstrings_messages_and_options_have_none_of_the_phrases():
    hits = [hit for module in PACKAGE for hit in found(module, strings(module), PHRASES | ONLY_CODE)]
    assert not hits, "\n".join(hits)


def test_a_phrase_is_found_in_a_page_and_in_a_module(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    page, module = tmp_path / "page.md", tmp_path / "module.py"
    page.write_text("# A page\n\n`mended` is code, but weights are\nmended here.\n")
    module.write_text('raise ValueError(f"{3} channels are gone")\n')
    assert found(page, prose(page), PHRASES) == ["page.md:3: 'mended'; write 'repair, or update (attributes)'"]
    assert found(module, strings(module), PHRASES)[0] == "module.py:1: 'are gone'; write 'removed, pruned'"
