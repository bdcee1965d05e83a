"""Every Python block that a reader can copy runs, page by page and from top to bottom, as a reader would run it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import dfpc_plugin as dfpc

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```+ *\{? *\.?(?:python|py)\b(?P<rest>.*)$", re.MULTILINE)
SKIPPED = " .not-run }"


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and the code of every block that is to run."""
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        if fence["rest"] != SKIPPED:
            code = text[fence.end() :].partition("\n```")[0]
            yield text.count("\n", 0, fence.end()), code


def test_there_are_pages_with_code():
    assert sum(1 for page in PAGES for _ in blocks(page)) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fences_are_spelt_so_that_blocks_run(page):
    """A block that cannot run says so with ```{ .python .not-run }; there is no other way to be left out."""
    rests = [fence["rest"] for fence in FENCE.finditer(page.read_text(encoding="utf-8"))]
    assert set(rests) <= {"", SKIPPED}
    assert rests.count(SKIPPED) <= 1


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=lambda page: page.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, object] = {"__name__": "__main__"}
    with torch.random.fork_rng(devices=[]), dfpc.rule_scope():
        torch.manual_seed(0)
        for line, code in blocks(page):
            # Empty lines in front, so that a traceback points into the page.
            exec(compile("\n" * line + code, str(page), "exec", dont_inherit=True), names)
