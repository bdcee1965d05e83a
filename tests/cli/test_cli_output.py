import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from dfpc_plugin.artifact import read_manifest
from dfpc_plugin.cli import bench, compare, evaluate
from dfpc_plugin.cli.output import print_json, print_outcome
from dfpc_plugin.evaluation import Evaluation
from workflow_runs import NET


def strict(text):
    """Read JSON as other languages do."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_numbers_that_are_not_finite_become_null_at_any_depth():
    console = Console(file=io.StringIO())
    content = {"a": [math.nan, 1.5, {"b": (math.inf, -math.inf, 3, True, None, "nan")}], "c": 0.1 + 0.2}
    print_json(content, console)
    text = console.file.getvalue()
    assert strict(text) == {"a": [None, 1.5, {"b": [None, None, 3, True, None, "nan"]}], "c": 0.1 + 0.2}
    assert text.count("\n") == 1
    assert math.isnan(content["a"][0]), "what was passed stays"


def test_an_int8_file_that_is_off_or_slow_is_said_to_be():
    console = Console(file=io.StringIO(), width=200)
    int8 = {"path": "int8.onnx", "kind": "ONNX, int8", "bytes": 10**6, "max_difference": 0.21, "same_predictions": None}
    exports = [int8 | {"latency_ms": {"float32": 0.69, "int8": 3.01}}, int8 | {"max_difference": 2e-7}]
    print_outcome({"evaluations": [], "exports": exports}, Path("out"), console)
    slow, exact = console.file.getvalue().splitlines()[1:3]
    assert "outputs differ by 21.0% of the largest" in slow and slow.endswith("; int8 is slower here than float32")
    assert "outputs differ by 2.0e-07 of the largest" in exact and "slower" not in exact


def test_the_points_of_a_curve_are_printed():
    console = Console(file=io.StringIO(), width=200)
    curve = [
        {"label": "before", "top1": 93.41},
        {"label": "macs=0.8", "top1": 92.8},
        {"label": "macs=0.5", "top1": None},
    ]
    print_outcome({"evaluations": [], "exports": [], "curve": curve}, Path("out"), console)
    assert "Top-1 along the curve: before 93.41 %, macs=0.8 92.80 %\n" in console.file.getvalue()


def test_a_loss_that_is_no_number_is_null(dfpc, monkeypatch):
    monkeypatch.setattr(evaluate, "evaluate_model", lambda *_: Evaluation(10.0, 50.0, math.nan, 360, 0.1))
    code, out, err = dfpc("evaluate", NET, "--size", "8", "--data", "digits", "--json")
    assert (code, err) == (0, "")
    found = strict(out)
    assert (found["top1"], found["loss"], found["count"]) == (10.0, None, 360)


def test_a_speedup_that_is_no_number_is_null(dfpc, monkeypatch):
    monkeypatch.setattr(bench, "_figures", lambda latency, first: {"speedup": math.inf})
    code, out, err = dfpc("bench", NET, "--size", "8", "--min_run_time", "0.01", "--json")
    assert (code, err) == (0, "")
    assert strict(out) == {NET: {"speedup": None}}


@pytest.mark.parametrize(
    ("command", "options", "names"),
    [
        ("score", ("--csv", "-", "--json", "-"), "json and csv"),
        ("couplings", ("--csv", "-", "--json", "-"), "json and csv"),
        ("sensitivity", ("--csv", "-", "--json"), "json and csv"),
        ("compare", ("--csv", "-", "--markdown", "-", "--json"), "json, csv and markdown"),
    ],
)
def test_two_results_do_not_share_the_standard_output(dfpc, command, options, names):
    sentence = f"{names} cannot share the standard output; name files for all but one.\n"
    assert dfpc(command, "test_resnet", *options) == (2, "", sentence)


LONG = "features.denseblock4.denselayer16.conv1"


@pytest.mark.parametrize("command", ["score", "couplings"])
def test_names_are_whole_in_pipes_and_can_be_told_apart_in_terminals(dfpc, monkeypatch, command):
    _, out, _ = dfpc(command, "densenet121", "--size", "32")
    assert LONG in out
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = dfpc(command, "densenet121", "--size", "32")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if " f.d3.d" in line]
    names = [row[1] if command == "score" else row[0] for row in rows]
    assert len(names) == len(set(names)) > 30


def test_tables_of_prune_are_whole_in_pipes(dfpc, tmp_path):
    """The whole table of a short model; of a long one, those that lost most, and the file that has all."""
    options = ("--target", "macs=0.9", "--overwrite", "--repair.method", "none")
    _, out, _ = dfpc("prune", "test_resnet", *options, "--output", tmp_path / "short")
    layers = read_manifest(tmp_path / "short").layers()
    assert all(f" {layer.layer} " in out for layer in layers)
    assert (tmp_path / "short" / "layers.csv").read_text() == layers.to_csv()
    _, out, _ = dfpc("prune", "densenet121", "--size", "32", *options, "--output", tmp_path / "long")
    lost = [layer for layer in read_manifest(tmp_path / "long").layers() if layer.outputs_after < layer.outputs_before]
    shown = min(14, len(lost))
    assert f"'{tmp_path / 'long' / 'layers.csv'}' shows {121 - shown} more" in out
    assert sum(f" {layer.layer} " in out for layer in lost) == shown
    assert "result.layers()" not in out
    assert len((tmp_path / "long" / "layers.csv").read_text().splitlines()) == 122


def test_random_weights_are_why_nothing_was_repaired(dfpc, tmp_path):
    options = ("prune", "test_resnet", "--target", "macs=0.9", "--output", tmp_path / "out", "--overwrite")
    _, out, _ = dfpc(*options)
    assert "was not repaired, as its weights are random" in out and "which costs accuracy" not in out
    _, out, _ = dfpc(*options, "--repair.method", "none")
    assert "was not repaired, which costs accuracy" in out


def test_every_model_has_its_own_file_of_cells():
    named = [compare.CompareConfig(model=name).store.name for name in ("test_vit", "torchvision/resnet18", "a.b:net")]
    assert named == [f"dfpc-compare-{name}.jsonl" for name in ("test_vit", "torchvision-resnet18", "a.b-net")]
    assert compare.CompareConfig(model="test_vit", save_to=Path("cells.jsonl")).store == Path("cells.jsonl")
