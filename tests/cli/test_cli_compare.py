import json

import numpy as np
import pytest
from PIL import Image

from dfpc_plugin import CompareResult
from workflow_runs import NET

ASKED = ("--criteria", "dfpc", "magnitude", "--budgets", "0.8", "macs=0.6")
MODEL = ("--size", "8", "--mean", "0.3", "--std", "0.35")


@pytest.fixture
def compared(dfpc, weights, tmp_path):
    """Run `dfpc compare` on a trained network."""

    def run(*arguments):
        path = tmp_path / "cells.jsonl"
        return path, dfpc("compare", NET, "--weights", weights, *MODEL, *ASKED, "--save_to", path, *arguments)

    return run


def test_labelled_images_give_accuracies_and_everything_is_written(compared, tmp_path):
    files = {name: tmp_path / f"table.{name}" for name in ("csv", "markdown", "plot")}
    files["plot"] = tmp_path / "table.svg"
    options = [part for name, path in files.items() for part in (f"--{name}", path)]
    path, (code, out, err) = compared("--data", "digits", "--limit", "100", *options)
    assert (code, err) == (0, "")
    result = CompareResult.read(path)
    assert len(result.cells) == 8
    assert result.metric.name == "accuracy" and result.source.startswith("100 labelled images")
    assert 0.5 < result.unpruned.value <= 1
    assert "DFPC" in out and "Accuracy (%) on 100 labelled images" in out
    assert files["csv"].read_text() == result.to_csv()
    assert files["markdown"].read_text() == result.to_markdown()
    assert files["plot"].read_bytes().startswith(b"<?xml")
    assert f"Written: {path}, {files['csv']}, {files['markdown']}, {files['plot']}" in out


def test_without_images_the_error_is_that_on_noise_and_json_is_the_whole(compared):
    path, (code, out, err) = compared("--json", "--quiet", "--repairs", "none")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["experiment"]["source"] == "256 images of noise"
    assert content["cells"] == CompareResult.read(path).to_json()["cells"]
    before = path.read_bytes()
    assert compared("--json", "--quiet", "--repairs", "none")[1] == (0, out, "")
    assert path.read_bytes() == before, "nothing is computed again"


def test_a_criterion_of_ones_own_is_named_by_its_module(compared, tmp_path, monkeypatch):
    """As a model of one's own; torch_pruning's own classes are named in the same way."""
    (tmp_path / "own_scores.py").write_text(
        "def wide(group):\n    return group[0].dep.target.module.weight.abs().sum((1, 2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ("own_scores:wide", "torch_pruning.pruner.importance:LAMPImportance")
    path, (code, _, err) = compared("--repairs", "none", "--criteria", *own)
    assert (code, err) == (0, "")
    assert {found.cell.criterion for found in CompareResult.read(path).cells} == {"wide", "LAMPImportance"}


@pytest.mark.parametrize("as_json", [False, True])
def test_a_finished_file_is_shown_again_without_model_or_images(dfpc, compared, tmp_path, monkeypatch, as_json):
    path, (_, out, _) = compared("--repairs", "none", *(["--json"] if as_json else []))
    if as_json:
        path = tmp_path / "cells.json"
        path.write_text(out)
    monkeypatch.delattr("dfpc_plugin.cli.compare._measured")
    before, plot = path.read_bytes(), tmp_path / "again.svg"
    assert dfpc("compare", path, "--csv", "-", "--plot", plot) == (0, CompareResult.read(path).to_csv(), "")
    assert plot.read_bytes().startswith(b"<?xml")
    code, shown, err = dfpc("compare", path)
    assert (code, err) == (0, "") and len(CompareResult.read(path).cells) == 4
    assert as_json or out.startswith(shown)
    assert path.read_bytes() == before


def test_a_finished_file_takes_no_options_of_a_comparison(dfpc, tmp_path):
    code, out, err = dfpc("compare", "cells.jsonl", "--budgets", "0.5")
    assert (code, out) == (2, "")
    assert (
        "'cells.jsonl' holds a finished comparison, of which all cells are shown; leave out --budgets, or name a model"
        in err
    )
    code, out, err = dfpc("compare", tmp_path / "cells.jsonl")
    assert (code, out) == (1, "")
    assert err.startswith(f"Cannot read '{tmp_path / 'cells.jsonl'}': ")


def test_images_without_labels_serve_calibrate_and_the_error(compared):
    _, (code, out, err) = compared(
        "--criteria",
        "taylor",
        "--budgets",
        "0.7",
        "--repairs",
        "calibrate",
        "--images",
        "digits",
        "--image_count",
        "40",
    )
    assert (code, err) == (0, "")
    assert "on 10 of the given images, to which nothing was fitted" in " ".join(out.split())


@pytest.mark.parametrize("command", ["compare", "sensitivity"])
def test_images_without_labels_may_be_of_any_part_if_there_is_one(dfpc, weights, tmp_path, command):
    """Such as the archive that is named as --data, too."""
    folder = tmp_path / "images" / "test" / "one"
    folder.mkdir(parents=True)
    for number in range(8):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)).save(folder / f"{number}.png")
    arguments = (command, NET, "--weights", weights, *MODEL, "--images", tmp_path / "images", "--image_count", "8")
    arguments += ("--save_to", tmp_path / "cells.jsonl", "--repairs", "none") if command == "compare" else ()
    code, out, err = dfpc(*arguments)
    assert (code, err) == (0, "")
    assert "8 of the given images" in out
    (tmp_path / "images" / "val" / "one").mkdir(parents=True)
    for path in folder.iterdir():
        (tmp_path / "images" / "val" / "one" / path.name).write_bytes(path.read_bytes())
    code, out, err = dfpc(*arguments)
    assert code == 1 and "There is no split 'train' in" in err


@pytest.mark.parametrize(("command", "measured"), [("compare", "figures"), ("sensitivity", "errors")])
def test_random_weights_are_told(dfpc, tmp_path, command, measured):
    own = (
        ("--criteria", "dfpc", "--budgets", "0.8", "--repairs", "none") if command == "compare" else ("--shares", "0.5")
    )
    arguments = (
        command,
        "cifar/resnet20",
        *own,
        *(("--save_to", tmp_path / "cells.jsonl") if command == "compare" else ()),
    )
    code, _, err = dfpc(*arguments)
    told = f"These are {measured} of random weights; --pretrained or --weights FILE loads trained ones."
    assert code == 0 and told in err
    assert told not in dfpc(*arguments, "--quiet")[2]


def test_a_comparison_without_any_figure_has_failed(compared):
    path, (code, out, _) = compared("--budgets", "0.001", "--repairs", "none")
    assert code == 1 and "Failed at macs=0.001, all: The target macs=0.001 cannot be reached" in " ".join(out.split())
    path.unlink()
    assert compared("--budgets", "0.001", "0.8", "--repairs", "none")[1][0] == 0


def test_an_interrupt_says_where_to_go_on(compared, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("dfpc_plugin.cli.compare.compare", stopped)
    path, (code, out, err) = compared()
    assert (code, out) == (130, "")
    assert err == f"Stopped. Finished cells are in {path}; the same command goes on from there.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--criteria", "dfp"), 1, "criteria='dfp' is none of auto,"),
        (("--repairs", "calibrate"), 1, "'calibrate' needs images; pass unlabelled ones as images, or leave it out."),
        (("--csv", "-", "--json"), 2, "json and csv cannot share the standard output; name files for all but one."),
        (("--plot", "plot.gif"), 1, "end its name in .png, .svg or .pdf."),
        (("--budget", "0.5"), 2, "did you mean --budgets?"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(compared, arguments, code, text):
    _, (found, out, err) = compared(*arguments)
    assert (found, out) == (code, "")
    assert text in err
    assert err.count("\n") == 1


def test_sensitivity(dfpc, weights, tmp_path):
    csv, plot = tmp_path / "errors.csv", tmp_path / "errors.png"
    arguments = ("sensitivity", NET, "--weights", weights, *MODEL, "--shares", "0.25", "0.5", "--images", "digits")
    code, out, err = dfpc(*arguments, "--image_count", "20", "--csv", csv, "--plot", plot)
    assert (code, err) == (0, "")
    assert "images: 20 of the given images." in out
    assert f"Written: {csv}, {plot}" in out
    assert csv.read_text().startswith("coupling,channels,macs,share,removed,predicted,noise,images\n")
    assert plot.read_bytes().startswith(b"\x89PNG")
    code, out, _ = dfpc(*arguments, "--json", "--quiet")
    assert json.loads(out)["shares"] == [0.25, 0.5]


def test_sensitivity_to_shares_that_make_no_sense(dfpc):
    code, out, err = dfpc("sensitivity", "test_resnet", "--shares", "1.5")
    assert (code, out) == (1, "")
    assert err == "shares[0] must be 0 or more and below 1, not 1.5; give 0.5, say.\n"


@pytest.mark.parametrize("criteria", ["dfpc,magnitude", "dfpc magnitude", "dfpc;magnitude"])
def test_criteria_that_are_not_separated_by_spaces(dfpc, tmp_path, monkeypatch, criteria):
    monkeypatch.chdir(tmp_path)
    code, out, err = dfpc("compare", "test_resnet", "--size", "32", "--criteria", criteria)
    assert (code, out) == (1, "")
    assert err.endswith("Write several values as --criteria dfpc magnitude.\n")
