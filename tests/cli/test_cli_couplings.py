import csv
import io
import itertools
import json

import pytest
import torch

from dfpc_plugin import find_couplings
from dfpc_plugin.cli import couplings
from dfpc_plugin.models import build_model


def expected(name):
    return find_couplings(build_model(name, meta=True), torch.ones(1, 3, 160, 160))


def rows(out, heading):
    """Cells of the table below a heading."""
    lines = iter(out.splitlines())
    next(line for line in lines if line.split()[:1] == [heading])
    next(lines)
    return [line.split() for line in itertools.takewhile(str.strip, lines)]


def test_prints_a_row_for_every_coupling_that_can_be_pruned(dfpc):
    code, out, err = dfpc("couplings", "test_vit")
    assert (code, err) == (0, "")
    assert out.startswith("test_vit, input 1x3x160x160; ")
    prunable = [coupling for coupling in expected("test_vit") if coupling.protected is None]
    found = rows(out, "Coupling")
    assert [row[:2] for row in found] == [[c.name, str(c.channels)] for c in prunable]
    assert found[1][2:5] == ["32", "x", "4"]


def test_protected_couplings_say_why(dfpc):
    _, out, _ = dfpc("couplings", "test_vit")
    (row,) = rows(out, "Protected")
    assert row == ["head", "1000", "0.2%", "1", "0", "is", "the", "model's", "output"]
    text = " ".join(out.split())
    assert "14 couplings; 13 can be pruned; 100.0% of the MACs and 99.7% of the parameters lie in" in text
    assert "2 more protected, with 104 entries that no layer produces" in text


def test_all_lists_what_no_layer_writes(dfpc):
    _, out, _ = dfpc("couplings", "test_vit", "--all")
    names = [row[0] for row in rows(out, "Protected") if any(cell.endswith("%") for cell in row)]
    assert names == ["head", "pos_embed", "patch_embed.proj"]
    assert "more protected" not in out
    assert "16 couplings; 13 can be pruned" in out


def test_show_prints_every_tensor_of_one_coupling(dfpc):
    code, out, _ = dfpc("couplings", "test_vit", "--show", "blocks.0.attn.qkv")
    assert code == 0
    first, second, *_ = out.splitlines()
    assert first == "blocks.0.attn.qkv: 32 units, 128 channels in 4 blocks, 7.9% of the MACs"
    assert second == "Can be pruned"
    assert "Kept equal: 4 rows in torch.Tensor.reshape in 'blocks.0.attn'" in out
    assert rows(out, "Tensor") == [
        ["blocks.0.attn.qkv.weight", "0", "192", "6", "feed-in"],
        ["blocks.0.attn.qkv.bias", "0", "192", "6", "transform"],
        ["blocks.0.attn.proj.weight", "1", "64", "2", "feed-out"],
    ]


def test_show_takes_any_layer_that_writes(dfpc):
    _, out, _ = dfpc("couplings", "resnet18", "--show", "layer1.1.conv2")
    assert out.startswith("conv1: 64 units, 64 channels, ")


def test_unknown_couplings_are_named_with_the_nearest(dfpc):
    code, out, err = dfpc("couplings", "test_vit", "--show", "blocks.0.atn.qkv")
    assert (code, out) == (1, "")
    assert "'test_vit' has no coupling called 'blocks.0.atn.qkv'; did you mean blocks.0.attn.qkv" in err


def test_json_on_stdout_is_all_that_is_there(dfpc):
    code, out, err = dfpc("couplings", "test_vit", "--json", "-")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert [entry["name"] for entry in content["couplings"]] == [c.name for c in expected("test_vit")]


def test_csv_on_stdout_is_all_that_is_there(dfpc):
    code, out, _ = dfpc("couplings", "test_resnet", "--csv", "-")
    assert code == 0
    found = [row["tensor"] for row in csv.DictReader(io.StringIO(out))]
    assert found == [piece.tensor for coupling in expected("test_resnet") for piece in coupling.slices]


def test_files(dfpc, tmp_path):
    paths = [tmp_path / name for name in ("couplings.json", "couplings.csv")]
    code, out, _ = dfpc("couplings", "test_vit", "--json", paths[0], "--csv", paths[1])
    assert code == 0
    assert all(str(path) in out.splitlines()[-1] for path in paths)
    assert json.loads(paths[0].read_text())["model"] == "test_vit"


def test_quiet_prints_nothing(dfpc, tmp_path):
    assert dfpc("couplings", "test_vit", "--quiet", "--csv", tmp_path / "couplings.csv") == (0, "", "")


@pytest.mark.parametrize("bad", [("--json", "nowhere/x.json"), ("--csv", ".")])
def test_bad_places_are_found_before_any_work(dfpc, bad, monkeypatch):
    monkeypatch.setattr(couplings, "couple_model", lambda *args, **kwargs: pytest.fail("too late"))
    code, out, err = dfpc("couplings", "test_vit", *bad)
    assert (code, out) == (1, "")
    assert err.startswith("Cannot ")


def test_unknown_models_are_named_with_the_nearest(dfpc):
    code, out, err = dfpc("couplings", "resnet5O")
    assert (code, out) == (1, "")
    assert "did you mean resnet50" in err


def test_size(dfpc):
    code, out, _ = dfpc("couplings", "test_resnet", "--size", "96")
    assert code == 0
    assert "input 1x3x96x96" in out


def test_a_size_that_the_model_refuses_is_said(dfpc):
    code, out, err = dfpc("couplings", "test_vit", "--size", "100")
    assert (code, out) == (1, "")
    assert "'test_vit' cannot be called with inputs of 1x3x100x100" in err


def test_detectors_come_with_their_heads(dfpc):
    code, out, _ = dfpc("couplings", "torchvision/ssdlite320_mobilenet_v3_large", "--size", "64")
    assert code == 0
    assert any(row[0].startswith("head.") for row in rows(out, "Protected"))


def test_print_config_reads_back(dfpc, tmp_path):
    code, out, _ = dfpc("couplings", "test_vit", "--all", "--print_config")
    assert code == 0
    path = tmp_path / "couplings.yaml"
    path.write_text(out)
    code, out, _ = dfpc("couplings", "--config", path)
    assert code == 0
    assert "16 couplings" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test_vit", "--shw=x"], "did you mean --show?"),
        (["test_vit", "--size", "0"], "size must be 1 or more, not 0."),
        (["test_vit", "--json", "-", "--csv", "-"], "json and csv cannot share the standard output"),
        ([], "required: model"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_named(dfpc, arguments, message):
    code, out, err = dfpc("couplings", *arguments)
    assert (code, out) == (2, "")
    assert message in err
