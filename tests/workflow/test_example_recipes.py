import re
from pathlib import Path

import pytest
import yaml

from dfpc_plugin.cli import main
from workflow_runs import ARTIFACT

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))
RANDOM = ("--model.pretrained", "false")


def test_they_are_found():
    assert {path.stem for path in RECIPES} >= {
        "quick",
        "latency",
        "vit_heads",
        "finetune",
        "detection_backbone",
        "paper_data_free",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_is_a_recipe(path, capsys):
    """With what its user has to say, it reads, and the whole recipe reads back."""
    given = ("--data.train", "digits", "--data.val", "digits") if "data:" in path.read_text() else ()
    assert main(["prune", str(path), *given, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for name, value in yaml.safe_load(path.read_text()).items():
        if isinstance(value, dict) and name != "data":
            for key, inner in value.items():
                found = printed[name][key]
                assert found == inner or (isinstance(inner, dict) and found == found | inner), (name, key)
        elif name != "data":
            assert printed[name] == value


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_says_how_it_is_used(path):
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.search(rf"dfpc(_plugin)? prune examples/recipes/{path.name}", comment)
    assert "--output" in comment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("quick", ("--model.name", "resnet18", "--model.size", "64")),
        (
            "latency",
            ("--model.name", "resnet18", "--model.size", "64", "--repair.count", "8", "--repair.steps", "2", "--target", "speedup=1.1",
             "--latency.min_run_time", "0.2"),
        ),
        ("vit_heads", ("--model.name", "vit_tiny_patch16_224", "--model.options", '{"depth": 2}')),
        ("detection_backbone", ("--model.size", "128")),
    ],
)  # fmt: skip
def test_it_runs_to_the_end(tmp_path, name, more):
    path = next(path for path in RECIPES if path.stem == name)
    assert main(["prune", str(path), *RANDOM, *more, "--output", str(tmp_path / "out"), "--quiet"]) == 0
    assert {entry.name for entry in (tmp_path / "out").iterdir()} >= ARTIFACT
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
