import csv
import io
import json

import pytest
import torch
from safetensors.torch import save_file

from dfpc_plugin import bgsc
from dfpc_plugin.models import build_model, example_inputs


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def expected(name, **options):
    torch.manual_seed(0)
    return bgsc(build_model(name), torch.ones(1, 3, 160, 160), **{"ranking": "output"} | options)


def test_prints_a_row_for_every_coupling(dfpc):
    code, out, err = dfpc("score", "test_convnext")
    assert (code, err) == (0, "")
    assert out.startswith("test_convnext, random weights, input 1x3x160x160: 22 layers")
    numbers = [line.split()[0] for line in out.splitlines() if line[:3].strip().isdigit()]
    assert numbers == [str(index + 1) for index in range(len(expected("test_convnext").couplings))]


def test_json_on_stdout_is_all_that_is_there(dfpc):
    code, out, err = dfpc("score", "test_vit", "--json", "-")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["layers"] == {layer: scores.tolist() for layer, scores in expected("test_vit").items()}


def test_csv_on_stdout_is_all_that_is_there(dfpc):
    code, out, _ = dfpc("score", "test_resnet", "--csv", "-", "--ranking", "relative")
    assert code == 0
    scores = expected("test_resnet", ranking="relative")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["saliency"]) for row in rows if row["layer"] == "conv1.0"] == scores["conv1.0"].tolist()


def test_files(dfpc, tmp_path):
    paths = [tmp_path / name for name in ("scores.json", "scores.csv", "scores.png")]
    code, out, _ = dfpc("score", "test_vit", "--json", paths[0], "--csv", paths[1], "--plot", paths[2])
    assert code == 0
    assert set(tmp_path.iterdir()) == set(paths)
    assert all(str(path) in out.splitlines()[-1] for path in paths)
    assert json.loads(paths[0].read_text())["model"] == "test_vit"


def test_quiet_prints_nothing(dfpc, tmp_path):
    assert dfpc("score", "test_vit", "--quiet", "--csv", tmp_path / "scores.csv") == (0, "", "")


@pytest.mark.parametrize(
    "bad", [("--json", "nowhere/x.json"), ("--csv", "."), ("--plot", "plot.gif"), ("--plot", "nowhere/x.png")]
)
def test_bad_places_are_found_before_any_work(dfpc, bad, monkeypatch):
    monkeypatch.setattr("dfpc_plugin.cli.score.score_model", lambda *args, **kwargs: pytest.fail("too late"))
    code, out, err = dfpc("score", "test_vit", *bad)
    assert (code, out) == (1, "")
    assert err.startswith("Cannot ")


def test_unknown_models_are_named_with_the_nearest(dfpc):
    code, out, err = dfpc("score", "resnet5O")
    assert (code, out) == (1, "")
    assert "did you mean resnet50" in err


def test_size(dfpc):
    code, out, _ = dfpc("score", "test_resnet", "--size", "96", "--top", "1")
    assert code == 0
    assert "input 1x3x96x96" in out


def test_detectors_are_scored_with_their_heads(dfpc):
    code, out, _ = dfpc("score", "torchvision/ssdlite320_mobilenet_v3_large", "--size", "64", "--json", "-")
    assert code == 0
    assert any(name.startswith("head.") for c in json.loads(out)["couplings"] for name in c["feed_out"])


def test_print_config_reads_back(dfpc, tmp_path):
    code, out, _ = dfpc("score", "test_vit", "--top", "2", "--print_config")
    assert code == 0
    assert "top: 2" in out
    path = tmp_path / "score.yaml"
    path.write_text(out)
    assert dfpc("score", "--config", path)[0] == 0
    assert dfpc("score", "--config", path, "--print-config")[1] == out


def test_a_file_drives_it_and_later_options_prevail(dfpc, tmp_path):
    path = tmp_path / "score.yaml"
    path.write_text("model: test_vit\nranking: relative\ntop: 2\n")
    code, out, _ = dfpc("score", "--config", path, "--top", "1")
    assert code == 0
    assert "relative ranking" in " ".join(out.split())
    assert "Only the 1 with the lowest scores" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: test_vit\nrankin: relative\n", "has the key 'rankin', which means nothing; did you mean 'ranking'?"),
        (
            "model: test_vit\nranking: best\n",
            "ranking must be one of 'published', 'relative', 'expected', 'output', not 'best'",
        ),
        ("model: test_vit\ntop: many\n", "top must be int, not 'many'"),
        ("model: test_vit\npretrained: 3\n", "not boolean: 3"),
        ("top: 1\n", "required: model"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(dfpc, tmp_path, content, message):
    path = tmp_path / "score.yaml"
    path.write_text(content)
    code, out, err = dfpc("score", "--config", path)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test_vit", "--pretraind"], "unrecognized arguments: --pretraind; did you mean --pretrained?"),
        (["test_vit", "--jsn=x"], "did you mean --json?"),
        (["test_vit", "more"], "'more' belongs to no option."),
        (["test_vit", "--pre"], "unrecognized arguments: --pre"),
        (["test_vit", "--top", "x"], "top must be int, not 'x'"),
        (["test_vit", "--top", "0"], "top must be 1 or more, not 0."),
        (["test_vit", "--size", "-5"], "size"),
        (["test_vit", "--json", "-", "--csv", "-"], "json and csv cannot share the standard output"),
        (["test_vit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        ([], "required: model"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_named(dfpc, arguments, message):
    code, out, err = dfpc("score", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_weights_come_from_a_file(dfpc, tmp_path):
    model = build_model("test_resnet")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    code, out, _ = dfpc("score", "test_resnet", "--weights", tmp_path / "w.safetensors", "--json", "-")
    assert code == 0
    scores = json.loads(out)
    assert scores["pretrained"]
    own = bgsc(model, example_inputs(model, "test_resnet"), ranking="output")
    assert scores["layers"] == {layer: pytest.approx(own[layer].tolist()) for layer in own}
    code, _, err = dfpc("score", "test_resnet", "--pretrained", "--weights", "w.safetensors")
    assert (code, err) == (2, "pretrained and weights both say where weights come from; give one of them.\n")
