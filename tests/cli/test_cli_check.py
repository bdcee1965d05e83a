import json

import pytest

from dfpc_plugin import MissingOperator
from dfpc_plugin.cli import check
from dfpc_plugin.report.check import ModelCheck


def test_one_model_is_one_line(dfpc):
    assert dfpc("check", "test_resnet") == (0, "test_resnet  ok  15 feed-in layers, 11 couplings\n", "")


def test_patterns_and_a_summary(dfpc):
    code, out, _ = dfpc("check", "test_vit?", "torchvision/resnet18", "test_vit2")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines if " ok " in line] == [
        "test_vit2", "test_vit3", "test_vit4", "torchvision/resnet18"
    ]  # fmt: skip
    assert lines[-1] == "4 of 4 models can be scored"


def test_one_failure_does_not_stop_the_others(dfpc):
    code, out, _ = dfpc("check", "test_vitt", "test_vit")
    assert code == 1
    assert "test_vitt  cannot be scored: No model is called 'test_vitt'; did you mean test_vit" in out
    assert "test_vit  ok" in out
    assert out.splitlines()[-1] == "1 of 2 models can be scored"


def test_missing_operators_fail_the_check(dfpc, monkeypatch):
    result = ModelCheck("m", 0, 0, (MissingOperator("torch.fft.fft2", ("stem",)),), "", 0.1)
    monkeypatch.setattr(check, "check_model", lambda name, build: result)
    code, out, _ = dfpc("check", "m")
    assert code == 1
    assert out.splitlines() == ["m  1 operator(s) without a rule", "  torch.fft.fft2  in stem"]


def test_json_is_all_that_is_on_stdout(dfpc):
    code, out, err = dfpc("check", "test_vit", "test_vitt", "--json")
    good, bad = json.loads(out)
    assert (code, err) == (1, "")
    assert (good["model"], good["ok"], good["layers"], good["missing"]) == ("test_vit", True, 25, [])
    assert (bad["ok"], bad["layers"]) == (False, 0)
    assert "did you mean" in bad["error"]


def test_a_pattern_without_matches_is_an_error(dfpc):
    code, out, err = dfpc("check", "zzz*")
    assert (code, out) == (1, "")
    assert "'zzz*'" in err


def test_a_file_can_list_the_models(dfpc, tmp_path):
    path = tmp_path / "check.yaml"
    path.write_text("models: [test_vit, test_resnet]\njson: true\n")
    code, out, _ = dfpc("check", "--config", path)
    assert code == 0
    assert [entry["model"] for entry in json.loads(out)] == ["test_vit", "test_resnet"]


@pytest.mark.parametrize("arguments", [[], ["test_vit", "--jsonn"]])
def test_usage_errors(dfpc, arguments):
    code, out, err = dfpc("check", *arguments)
    assert (code, out) == (2, "")
    assert "See dfpc check --help." in err
