import time
from pathlib import Path

import pytest
import yaml

from dfpc_plugin.cli.options import option_types
from dfpc_plugin.cli.parser import ConfigFileError, check_config_file
from dfpc_plugin.cli.prune import PruneConfig

OPTIONS = list(option_types(PruneConfig))


def check(path):
    check_config_file(str(path), PruneConfig, OPTIONS)


def bomb(levels=12, width=9):
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "model:\n  name: m\n  options:\n" + "\n".join(f"    {line}" for line in lines)


BAD = {
    "tag": ("model: !!python/object/apply:os.system ['touch hacked']", "could not determine a constructor"),
    "object": ("model: !!python/object:os.stat_result {}", "could not determine a constructor"),
    "name": ("target: !!python/name:os.system", "could not determine a constructor"),
    "own tag": ("target: !evil x", "could not determine a constructor for the tag '!evil' in line 1"),
    "twice": ("model: {name: a}\ntarget: x\nmodel: {name: b}", "the key 'model' is given twice in line 1"),
    "twice within": ("model:\n  name: a\n  name: b", "the key 'name' is given twice in line 2"),
    "number as key": ("3: x", "the key 3 is no text"),
    "list as key": ("? [a, b]\n: x", "in line 1"),
    "null as key": ("~: x", "the key None is no text"),
    "list": ("- model", "holds a list; a configuration file holds options, as key: value."),
    "text": ("resnet50", "holds a str; a configuration file holds options"),
    "number": ("3", "holds a int"),
    "tabs": ("model:\n\tname: x", "in line 2"),
    "open": ("model: {name: x", "in line"),
    "two documents": ("a: 1\n---\nb: 2", "is no YAML"),
    "anchor to nothing": ("target: *nothing", "undefined alias"),
    "bomb": (bomb(), "holds more than 10000 values; no configuration file does."),
    "merges": ("a: &a {x: 1}\nb: {<<: [*a, *a]}", "is no YAML: could not determine a constructor"),
    "long": (f"target: {'x' * 20_000}", "holds a value of 20000 characters, 'xxxxxxxxxxxxxxxxxxxx...'"),
    "large": (f"target: 1{'0' * 400}", "holds the number 10000000000000000000..., which is too large for any option."),
    "deep": ("target: " + "[" * 3000, "cannot be understood"),
    "date": ("target: 2026-99-99", "cannot be understood: month must be in 1..12."),
    "unknown": ("modle: {name: x}", "has the key 'modle', which means nothing; did you mean 'model'?"),
    "unknown within": (
        "finetune: {epoch: 3}",
        "has the key 'finetune.epoch', which means nothing; did you mean 'finetune.epochs'?",
    ),
    "unknown and alone": ("qqqqqqqqqqq: 3", "which means nothing; see --help for the options there are."),
    "deeper": (
        "data: {augment: {crp: none}}",
        "'data.augment.crp', which means nothing; did you mean 'data.augment.crop'?",
    ),
    "in the wrong place": ("lr: 3", "did you mean 'finetune.lr'?"),
    "no section": ("model: resnet50", "has no options in 'model'; write them below it, as key: value."),
    "null section": ("repair:", "has no options in 'repair'"),
    "list as section": ("finetune: [3]", "has no options in 'finetune'"),
    "no section within": ("data: {augment: flip-crop}", "has no options in 'data.augment'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_with_its_place(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    text, told = BAD[case]
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigFileError) as caught:
        check("r.yaml")
    assert told in str(caught.value)
    assert "'r.yaml'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\xff\xfe\x00model", "is no text in UTF-8"),
        (b"model: \x00", "is no YAML: "),
        (b"a: 1\n" * 250_000, "has more than 131072 bytes; no configuration file is that large."),
        (bytes(range(256)), "is no text in UTF-8"),
    ],
)
def test_files_that_are_no_text(tmp_path, data, told):
    (tmp_path / "r.yaml").write_bytes(data)
    with pytest.raises(ConfigFileError) as caught:
        check(tmp_path / "r.yaml")
    assert told in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    for path, told in ((tmp_path / "no.yaml", "No such file"), (tmp_path, "directory"), ("a\0b", "null byte")):
        with pytest.raises(ConfigFileError, match="cannot be read") as caught:
            check(path)
        assert told in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "{}", "finetune: null", "schedule:\nlatency: ~", "\ufefftarget: macs=0.5"]
)
def test_what_says_nothing_is_allowed(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    check(tmp_path / "r.yaml")


def test_keys_of_options_without_fields_are_free(tmp_path):
    (tmp_path / "r.yaml").write_text("model: {name: m, options: {anything: {at: [all]}}}")
    check(tmp_path / "r.yaml")


def test_anchors_that_make_little_are_allowed(tmp_path):
    (tmp_path / "r.yaml").write_text("schedule:\n  tuning: &t {steps: 3}\n  final: *t")
    check(tmp_path / "r.yaml")
    assert yaml.safe_load((tmp_path / "r.yaml").read_text())["schedule"]["final"] == {"steps": 3}


@pytest.mark.parametrize(
    "name", ["target", "seed", "device", "curve", "output", "overwrite", "resume", "json", "quiet"]
)
def test_null_is_no_value_of_what_needs_one(dfpc, tmp_path, name):
    (tmp_path / "r.yaml").write_text(f"model: {{name: test_resnet}}\n{name}: null\n")
    code, out, err = dfpc("prune", tmp_path / "r.yaml", *(() if name == "output" else ("--output", tmp_path / "out")))
    assert (code, out) == (2, "")
    assert f"{name}" in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: {name: m, size: {width: 4}}", "model.size must be int, not"),
        ("model: {name: m}\ndata: {mean: {a: 1}}", "data.mean must be tuple[float, ...], not"),
        ("model: {name: [m]}", "model.name: Expected a str. Got value: ['m']."),
        ("model: {name: m}\nfinetune: {lr: fast}", "finetune.lr: Expected a float. Got value: fast."),
        ("model: {name: m}\nschedule: {final: {lr: fast}}", "schedule.final.lr: Expected a float. Got value: fast."),
        ("model: {name: m}\ncurve: 0.5", "has no list in 'curve'; write one, as [first, second]."),
        ("target: macs=0.5", "model.name"),
        ("model: {name: m}\nschedule: {final: {steps: [1]}}", "schedule.final.steps must be int, not '[1]'"),
        ("model: {name: m}\nschedule: {final: {steps: -1}}", "steps must be 1 or more, not -1"),
    ],
)
def test_values_of_another_kind(dfpc, tmp_path, text, told):
    (tmp_path / "r.yaml").write_text(text)
    code, out, err = dfpc("prune", tmp_path / "r.yaml", "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert "class" not in err
    assert "Union" not in err


@pytest.mark.timeout(20)
def test_many_keys_are_compared_once(tmp_path):
    (tmp_path / "r.yaml").write_text("".join(f"k{number}: 1\n" for number in range(9_000)))
    start = time.process_time()
    with pytest.raises(ConfigFileError, match="has the key 'k0', which means nothing"):
        check(tmp_path / "r.yaml")
    assert time.process_time() - start < 5


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without end")
def test_a_file_without_end(tmp_path):
    with pytest.raises(ConfigFileError, match="has more than 131072 bytes"):
        check("/dev/zero")
