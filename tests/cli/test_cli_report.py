import pytest

from dfpc_plugin.artifact import save_pruned
from workflow_nets import colour_net
from workflow_runs import NET, surroundings


def test_the_page_is_that_of_the_artifact(dfpc, saved, tmp_path):
    before = surroundings(saved)
    page = tmp_path / "page.html"
    assert dfpc("report", saved, "--output", page) == (0, f"Written: {page}\n", "")
    assert page.read_text() == (saved / "report.html").read_text()
    assert dfpc("report", saved, "--output", "-") == (0, page.read_text(), "")
    assert surroundings(saved) == before


def test_no_code_of_the_model_is_needed(dfpc, saved, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "workflow_nets", None)  # importing it raises
    assert dfpc("report", saved, "--output", tmp_path / "page.html")[0] == 0


def test_a_model_without_a_record(dfpc, tmp_path):
    save_pruned(colour_net().eval(), tmp_path / "net", model=NET)
    code, out, err = dfpc("report", tmp_path / "net", "--output", tmp_path / "page.html")
    assert (code, out) == (1, "")
    assert f"'{tmp_path / 'net'}' has no record of how it came about" in err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("target", ["no/where.html", "."])
def test_a_place_that_is_none(dfpc, saved, tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    code, out, err = dfpc("report", saved, "--output", target)
    assert (code, out) == (1, "")
    assert f"Cannot write '{target}': " in err


def test_something_that_was_not_saved(dfpc, tmp_path):
    code, out, err = dfpc("report", tmp_path, "--output", tmp_path / "page.html")
    assert (code, out) == (1, "")
    assert "manifest.json" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
