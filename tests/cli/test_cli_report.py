import shutil

import pytest
import torch

import dfpc_plugin
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


def test_the_path_of_the_manifest_is_understood(dfpc, saved, tmp_path):
    page = tmp_path / "page.html"
    assert dfpc("report", saved / "manifest.json", "--output", page) == (0, f"Written: {page}\n", "")
    assert page.read_text() == (saved / "report.html").read_text()


def test_a_directory_of_saved_models(dfpc, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "models" / "one")
    page = tmp_path / "page.html"
    assert dfpc("report", tmp_path / "models", "--output", page)[0] == 0
    assert page.read_text() == (saved / "report.html").read_text()
    shutil.copytree(saved, tmp_path / "models" / "two")
    code, out, err = dfpc("report", tmp_path / "models", "--output", tmp_path / "other.html")
    one, two = tmp_path / "models" / "one", tmp_path / "models" / "two"
    said = f"'{tmp_path / 'models'}' is no saved model, but holds 2 of them; name one: {one}, {two}.\n"
    assert (code, out, err) == (1, "", said)


def test_a_model_that_was_saved_with_the_result_of_prune(dfpc, tmp_path):
    result = dfpc_plugin.prune(colour_net().eval(), torch.randn(1, 3, 8, 8), "macs=0.6")
    dfpc_plugin.save_pruned(result, tmp_path / "net", model=NET)
    assert dfpc("report", tmp_path / "net", "--output", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert f"<h1>{NET}</h1>" in page
    assert "Asked for <b>macs=0.6</b>" in page
    assert all(title in page for title in ("Before and after", "Channels of the layers", "Saliency"))
