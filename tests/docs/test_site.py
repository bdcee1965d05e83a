"""The built site: links, anchors and images lead somewhere, nothing comes from the network, and search finds its words."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """What a page links to, loads, and can be linked to by."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        loaded = found.get("href") if tag == "link" and found.get("rel") != "canonical" else found.get("src")
        if loaded and not loaded.startswith("data:"):
            self.loads.append(loaded)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def pages(site):
    found = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    del found[site / "404.html"]  # its links begin at the root of a server
    assert len(found) > 20
    return found


def test_links_and_anchors_lead_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_images_scripts_and_styles_are_there_and_not_on_the_network(site, pages):
    broken = []
    for path, page in pages.items():
        for loaded in page.loads:
            parts = urlsplit(loaded)
            if parts.scheme or parts.netloc or not (path.parent / unquote(parts.path)).is_file():
                broken.append(f"{path.relative_to(site)}: {loaded}")
    assert not broken


def test_the_reference_shows_functions_not_the_modules_they_are_in(site):
    """A module that shares its name with a function of it comes first where both could be meant."""
    for page in (site / "reference").glob("*.html"):
        assert "doc-symbol-heading doc-symbol-module" not in page.read_text(encoding="utf-8"), page


@pytest.mark.parametrize("word", ["latency", "head_dim", "safetensors", "UnsupportedOperatorError"])
def test_search_finds(site, word):
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    assert any(word in entry["title"] + entry["text"] for entry in entries)


@pytest.mark.parametrize(
    ("word", "page"),
    [
        ("FLOPs", "budgets.html"),
        ("quantization", "tutorials/export-and-deploy.html"),
        ("color", "tutorials/prune-a-vit.html"),
        ("colour", "tutorials/prune-a-vit.html"),
        ("notebook", "tutorials/prune-a-cnn.html"),
        ("optimizer", "fine-tuning.html"),
    ],
)
def test_search_finds_synonyms_and_both_spellings(site, word, page):
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    assert page in {entry["location"].partition("#")[0] for entry in entries if word in entry["text"]}


def test_search_works_from_disk(site):
    """A browser does not fetch files for a page from disk: the index is a script, and so is what reads it."""
    assert (site / "search" / "search_index.js").read_text(encoding="utf-8").startswith("var __index = {")
    assert "assets/javascripts/iframe-worker.js" in (site / "index.html").read_text(encoding="utf-8")


def test_every_tutorial_offers_its_notebook(site):
    for page in (site / "tutorials").glob("*.html"):
        assert f'href="{page.stem}.ipynb"' in page.read_text(encoding="utf-8")
        assert json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))["nbformat"] == 4


def test_every_page_can_be_reached(site, pages):
    start = site / "index.html"
    linked = {(start.parent / unquote(urlsplit(link).path)).resolve() for link in pages[start].links}
    assert set(pages) - {start} <= linked, "the navigation is on every page"
