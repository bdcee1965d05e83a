"""Every Python block that a reader can copy runs, page by page and from top to bottom, as a reader would run it."""

import sys
from pathlib import Path

import pytest
import torch
from doc_pages import PAGES, blocks, missing, write_titled

import dfpc_plugin as dfpc
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.repairing import METHODS
from steady_machine import RealForwards


def to_run(page):
    return [block for block in blocks(page) if block.words == ["python"] and not block.title]


def test_there_are_pages_with_code():
    assert sum(len(to_run(page)) for page in PAGES) >= 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_fits_beside_the_menu(page):
    """A block holds 118 characters on a screen of 1280 pixels, and scrolls if a line is longer."""
    assert not [line for block in to_run(page) for line in block.code.splitlines() if len(line) > 118]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fences_are_spelt_so_that_blocks_run(page):
    """A block that cannot run says so with ```{ .python .not-run }; there is no other way to be left out."""
    found = [tuple(block.words) for block in blocks(page)]
    python = [words for words in found if words and words[0].startswith("py")]
    assert set(python) <= {("python",), ("python", "not-run")}
    assert python.count(("python", "not-run")) <= 1
    assert {words[1:] for words in found if words and words[0] == "console"} <= {(), ("run",)}


@pytest.fixture
def registries():
    """Whatever a page registers is known to that page alone."""
    kept = [(registry._entries, dict(registry._entries)) for registry in (CRITERIA, METHODS)]
    yield
    for entries, before in kept:
        entries.clear()
        entries.update(before)


@pytest.fixture
def steady_clock(monkeypatch):
    """Models run as long as the settings say, and the latencies do not depend on the load of this machine."""
    monkeypatch.setattr(dfpc.LatencySettings, "measure", RealForwards.measure)


@pytest.mark.usefixtures("registries", "steady_clock")
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=lambda page: page.name)
def test_blocks_run_and_print_what_is_shown(page, tmp_path, monkeypatch, capsys):
    """A block of text right behind the code is what it prints; `{ .text .varies }` if its numbers are others every time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in write_titled(page, tmp_path):
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    names: dict[str, object] = {"__name__": "__main__"}
    settings = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), Path.cwd()
    shown = {block.line: block for block in blocks(page) if block.language == "text"}
    with torch.random.fork_rng(devices=[]), dfpc.rule_scope():
        torch.manual_seed(0)
        for block in to_run(page):
            capsys.readouterr()
            # Empty lines in front, so that a traceback points into the page.
            exec(compile("\n" * block.line + block.code, str(page), "exec", dont_inherit=True), names)
            says, printed = shown.get(block.end + 2), capsys.readouterr().out
            if says is not None:
                lost = missing(says.code.splitlines(), printed, numbers="varies" not in says.words)
                assert lost == [], f"{page}, line {says.line}: the code prints\n{printed}"
    after = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), Path.cwd()
    assert after == settings, "what a reader copies leaves PyTorch's settings and the directory alone"
