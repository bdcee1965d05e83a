"""Recipes that nobody would write: whatever they are, the answer is one sentence or success, and nothing is left behind."""

import contextlib
import copy
import io
import os
import types
from pathlib import Path
from unittest import mock

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfpc_plugin.cli import main
from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.workflow import Recipe, recipe_text
from dfpc_plugin.workflow.sections import DataSection, ModelSection
from workflow_runs import DIGITS, TUNED, changed, surroundings

EVERYTHING = yaml.safe_load(
    recipe_text(
        Recipe(
            ModelSection("workflow_nets:colour_net", size=8), data=DataSection("digits", "digits"), finetune=FinetuneSettings(steps=3),
            latency=LatencySettings(),
        )
    )
) | {"schedule": None, "overwrite": False, "resume": False, "json": False, "quiet": True}  # fmt: skip
SCHEDULED = changed(
    EVERYTHING,
    finetune=None,
    latency=None,
    schedule=yaml.safe_load(
        yaml.safe_dump(__import__("dataclasses").asdict(ScheduleSettings(step_sizes=())) | {"step_sizes": [0.1]})
    ),
)
VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, -1, 0, 1, 3, -0.5, 0.5, 1e308, 10**30, -(10**30), float("nan"), float("inf"), -float("inf")]
    ),
    st.sampled_from(
        [
            "",
            " ",
            "x",
            "nan",
            "1e5",
            "0x10",
            "null",
            "~",
            "[]",
            "{}",
            "../..",
            "$(touch hacked)",
            "a\nb",
            "\u202e",
            "😀",
            "a" * 5000,
        ]
    ),
    st.sampled_from(
        [
            [],
            {},
            [[]],
            [None],
            [1, "a"],
            {"a": 1},
            {"": None},
            {"name": {"name": {}}},
            [[[[[1]]]]],
            {"class_path": "os.system"},
        ]
    ),
)
LINES = st.sampled_from(
    [
        "model: {name: x}", "target: macs=0.5", "a: &a [*a]", "x: !!python/object/apply:os.system ['touch hacked']", "<<: *none",
        "\t", "---", "...", "- x", "}: {", "%YAML 9.9", "? ?", "b: &b {c: *b}", "model.name: x", "!!binary aGk=", "target: !!float .nan",
        "'", '"', "[" * 2000, "{a: " * 500, "prune: {importance: &i [*i]}", "\x85", "seed: 1_0", "seed: 0o17", "seed: 1:30", "config: x.yaml",
        "output: /dev/null/x", "output: null", "output: 3",
    ]
)  # fmt: skip


def paths_of(content, prefix=()):
    for key, value in content.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*prefix, key))


def misspelt(key, at):
    at %= max(1, len(key))
    return key[:at] + key[at + 1 :]


@st.composite
def recipes(draw, base, values=VALUES, untouched=()):
    """A recipe with one to three things wrong with it, as bytes."""
    content = copy.deepcopy(draw(st.sampled_from(base)))
    for _ in range(draw(st.integers(1, 2))):
        paths = [path for path in paths_of(content) if path[0] not in untouched and ".".join(path) not in untouched]
        path = draw(st.sampled_from(paths))
        place = content
        for key in path[:-1]:
            place = place[key]
        kind = draw(st.sampled_from(["value", "value", "value", "misspell", "remove", "nest", "move"]))
        if kind == "value":
            place[path[-1]] = copy.deepcopy(draw(values))  # the next change may be inside it
        else:
            value = place.pop(path[-1])
            if kind == "misspell":
                place[misspelt(path[-1], draw(st.integers(0, 30)))] = value
            elif kind == "nest":
                place[path[-1]] = {path[-1]: value}
            elif kind == "move":
                content[f"{path[-1]}"] = value
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        lines = text.split("\n")
        lines.insert(draw(st.integers(0, len(lines))), draw(LINES))
        text = "\n".join(lines)
    data = text.encode("utf-8", "replace")
    damage = draw(st.sampled_from(["none", "none", "none", "none", "cut", "bytes", "empty"]))
    if damage == "cut":
        data = data[: draw(st.integers(0, len(data)))]
    elif damage == "bytes":
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
    return b"" if damage == "empty" else data


CODES = (0, 1, 2)
"""Done; not possible; not a recipe."""


def told(directory: Path, data: bytes):
    """Run a recipe in a directory; return the exit code and the standard error, after checking what holds for all."""
    recipe = directory / "r.yaml"
    recipe.write_bytes(data)
    before = surroundings(directory)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["prune", str(recipe), "--output", str(directory / "out"), "--quiet", "--no_json"])
    assert code in CODES
    assert out.getvalue() == ""
    if code:
        text = err.getvalue()
        assert text.count("\n") == 1, text
        assert text.strip(), data
        assert "Traceback" not in text
        assert surroundings(directory) == before
    return code, err.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hostile")
    old = Path.cwd()
    os.chdir(directory)  # where `touch hacked` would leave its file
    yield directory
    os.chdir(old)
    assert not (directory / "hacked").exists()


def refused_or_a_recipe(place, data):
    """What passes is checked not to be run: `follow_recipe` notes it."""
    seen = []

    def noted(recipe, output, **options):
        seen.append(recipe)
        return types.SimpleNamespace(record={}, pruning=None)

    with mock.patch("dfpc_plugin.cli.prune.follow_recipe", noted):
        code, _ = told(place, data)
    assert len(seen) == (code == 0)
    for recipe in seen:
        assert isinstance(recipe, Recipe)
        assert yaml.safe_load(recipe_text(recipe))["model"]["name"] == recipe.model.name
    return code


MODERATE = st.sampled_from(
    [None, True, False, -1, 0, 1, 2, 3, -0.5, 0.5, 10**30, float("nan"), float("inf"), "", "x", "nan", "null", "macs=0.9", "ratio=0.1", "merge",
     "mean", "lamp", "cpu", "val", [], {}, [0.5], ["0"], ["*"], {"classes": 12}, {"width": 4}, [0.1, 0.2, 0.3], [[1]]]
)  # fmt: skip
SHORT = changed(
    DIGITS, data__limit=20, repair={"method": "none", "count": None, "ridge": None, "seed": 0}, seed=0, device="cpu", curve=[],
    prune={"importance": "auto", "per": "channel", "rescore": None, "max_ratio": 0.9, "min_channels": 2, "round_to": None, "ignored_layers": [],
           "coupled": True, "whole_heads": False},
)  # fmt: skip
SHORT["model"] |= {"options": {}, "pretrained": False, "weights": None, "batch_size": 1}


def ended_or_refused(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("run")
    code, _ = told(directory, data)
    if code == 0:
        assert (directory / "out" / "manifest.json").is_file()
        assert {path.name for path in directory.iterdir()} == {"r.yaml", "out"}
    return code


def examples(count):
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@examples(50)
@given(data=recipes([EVERYTHING, SCHEDULED, TUNED]))
def test_whatever_is_written_is_refused_in_one_sentence_or_is_a_recipe(place, data):
    assert refused_or_a_recipe(place, data) in CODES


@examples(25)
@given(data=recipes([SHORT], MODERATE))
def test_whatever_is_run_ends_in_an_artifact_or_in_one_sentence(tmp_path_factory, place, data):
    assert ended_or_refused(tmp_path_factory, data) in CODES


@pytest.mark.slow
@examples(1000)
@given(data=recipes([EVERYTHING, SCHEDULED, TUNED]))
def test_many_more_that_are_written(place, data):
    assert refused_or_a_recipe(place, data) in CODES


@pytest.mark.slow
@examples(200)
@given(data=recipes([SHORT], MODERATE))
def test_many_more_that_are_run(tmp_path_factory, place, data):
    assert ended_or_refused(tmp_path_factory, data) in CODES
