"""A tutorial's notebook has the page's code, and runs from top to bottom."""

import importlib
import json

import pytest
from doc_pages import ROOT, blocks, write_titled

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("mkdocs")

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.fixture
def made(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    notebook = importlib.import_module("notebooks").notebook
    return lambda page: nbformat.reads(json.dumps(notebook(page.read_text(encoding="utf-8"))), as_version=4)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_notebook_has_the_code_of_its_page(made, page):
    notebook = made(page)
    nbformat.validate(notebook)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    expected = [
        f"%%writefile {block.title}\n{block.code}" if block.title else block.code
        for block in blocks(page)
        if block.title or block.words == ["python"]
    ]
    assert [cell.strip() for cell in cells] == [code.strip() for code in expected]
    assert not any("```python" in cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_notebook_runs(made, page, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_titled(page, tmp_path)
    client = nbclient.NotebookClient(made(page), timeout=240, kernel_name="python3")
    done = client.execute(cwd=str(tmp_path))
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert cells and all(cell.execution_count for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
