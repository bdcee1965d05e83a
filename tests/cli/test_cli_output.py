import io
import json
import math

import pytest
from rich.console import Console

from dfpc_plugin.cli import bench, evaluate
from dfpc_plugin.cli.output import print_json
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
