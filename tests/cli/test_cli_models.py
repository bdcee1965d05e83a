"""Every command that takes a model takes a name with options and weights, a checkpoint, and a saved model."""

import json

import pytest
import timm
import torch
import yaml

from dfpc_plugin.artifact import read_manifest
from dfpc_plugin.cli import COMMANDS
from dfpc_plugin.cli.options import guessed, option_types, respelt

OPTIONS = ("--options.num_classes", "7", "--options.in_chans", "1")
INFERRED = "From the checkpoint '{}': {}in_chans=1, num_classes=7.\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint that names its architecture, one that does not and has a loss, and a saved model."""
    place = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=7, in_chans=1)
    torch.save({"state_dict": model.state_dict(), "arch": "test_resnet"}, place / "named.pth")
    state = {f"net.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state | {"loss.weight": torch.ones(7)}}, place / "other.ckpt")
    return place


@pytest.fixture(scope="module")
def pruned(files):
    from dfpc_plugin.cli import main

    output = files / "pruned"
    assert main(["prune", str(files / "named.pth"), "--target", "macs=0.8", "--output", str(output), "--quiet"]) == 0
    return output


RUNS = {
    "score": ("--json", "-"),
    "couplings": ("--json", "-"),
    "check": ("--json",),
    "bench": ("--min_run_time", "0.01", "--json"),
    "export": ("--program", "x.pt2", "--json"),
}


def model_of(command, out):
    """What a command says of the model's outputs or inputs."""
    content = json.loads(out)
    return {
        "score": lambda: content["input_shapes"] == [[1, 1, 160, 160]],
        "couplings": lambda: content["input_shapes"] == [[1, 1, 160, 160]],
        "check": lambda: content[0]["ok"],
        "bench": lambda: len(content) == 1,
        "export": lambda: content[0]["max_difference"] < 1e-4,
    }[command]()


@pytest.mark.parametrize("command", RUNS)
def test_whatever_stands_for_a_model_will_do(dfpc, command, files, pruned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named, other = files / "named.pth", files / "other.ckpt"
    weights = ("--weights", other, "--ignore-surplus")
    note, rest = INFERRED.format(named, "the architecture test_resnet, "), INFERRED.format(other, "")
    for arguments, said in [
        (("test_resnet", *OPTIONS), ""),
        (("test_resnet", "--options", '{"num_classes": 7, "in_chans": 1}'), ""),
        ((named,), note),
        (("test_resnet", *weights), rest),
        (("test_resnet", "--model.weights", other, "--model.ignore_surplus"), rest),
        ((pruned,), ""),
    ]:
        code, out, err = dfpc(command, *arguments, *RUNS[command])
        assert code == 0 and model_of(command, out), (arguments, err)
        assert err.startswith(said) if command != "check" else not err


def test_prune_takes_a_checkpoint_and_the_short_names_of_options(dfpc, files, tmp_path):
    short = (
        "--weights",
        files / "other.ckpt",
        "--ignore-surplus",
        "--output",
        tmp_path / "out",
        "--target",
        "macs=0.8",
    )
    code, out, err = dfpc("prune", "test_resnet", *short)
    assert code == 0 and INFERRED.format(files / "other.ckpt", "") in err
    manifest = read_manifest(tmp_path / "out")
    assert manifest.spec.options == {"in_chans": 1, "num_classes": 7}
    assert manifest.record["model"]["weights"] == "other.ckpt"
    assert manifest.record["prune"]["notes"][0].startswith("From the checkpoint")
    assert "Written:" in out


def test_repair_takes_the_checkpoint_of_the_unpruned_model(dfpc, files, pruned, tmp_path):
    arguments = ("--weights", files / "other.ckpt", "--ignore_surplus", "--repair.method", "mean")
    assert dfpc("repair", pruned, *arguments, "--output", tmp_path / "out", "--quiet") == (0, "", "")


ERRORS = {
    "another class count": (
        ("test_resnet", "--weights", "other.ckpt", "--options.num_classes", "10", "--options.in_chans", "1"),
        "The checkpoint 'other.ckpt' does not match the model: the model has no loss.weight; the classifier has 7 classes, "
        "the model 10. Give --model.options.num_classes 7.\n",
    ),
    "surplus": (
        ("test_resnet", "--weights", "other.ckpt"),
        "The checkpoint 'other.ckpt' does not match the model: the model has no loss.weight. Add --model.ignore_surplus to "
        "leave out what the model does not have.\n",
    ),
    "no architecture": (
        ("other.ckpt",),
        "The checkpoint 'other.ckpt' does not name its architecture; give that as the model, such as resnet50 or "
        "torchvision/resnet50, and --model.weights other.ckpt.\n",
    ),
    "twice": (
        ("named.pth", "--weights", "other.ckpt"),
        "'named.pth' is a checkpoint, which has its weights; give none beside it.\n",
    ),
    "saved": (
        ("pruned", "--options.num_classes", "7"),
        "'pruned' is a saved model, which has its weights and options; give none beside it.\n",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("command", ["score", "prune"])
def test_what_does_not_fit_is_answered_with_the_option(dfpc, command, kind, files, pruned, monkeypatch):
    monkeypatch.chdir(files)
    arguments, said = ERRORS[kind]
    assert dfpc(command, *arguments) == (1, "", said)


def test_a_file_that_is_not_there(dfpc):
    code, _, err = dfpc("score", "x.pth")
    assert code == 1 and err.startswith("No model is called 'x.pth', and there is no such file")


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("evaluate", ("--num-classes", "7"), "--options.num_classes 7"),
        ("evaluate", ("--num_classes=7",), "--options.num_classes 7"),
        ("prune", ("--classes", "7"), "--model.options.num_classes 7"),
        ("score", ("--in-channels", "1"), "--options.in_chans 1"),
        ("score", ("--checkpoint", "x.pth"), "--weights x.pth"),
        ("prune", ("--ckpt", "x.pth"), "--model.weights x.pth"),
        ("score", ("--img-size",), "--size"),
        ("prune", ("--sparsity", "0.3"), "--target ratio=0.3"),
        ("prune", ("--flops",), "--target macs=0.5"),
        ("report", ("--num-classes", "7"), None),
    ],
)
def test_names_of_other_programs_get_the_right_spelling(dfpc, command, typed, meant):
    code, out, err = dfpc(command, "test_resnet", *typed)
    assert (code, out) == (2, "")
    assert (f"; did you mean {meant}? See dfpc {command}" in err) if meant else "did you mean" not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_no_guess_is_an_option_of_ours(command):
    """Which would be taken for what it is, and never be explained."""
    options = list(option_types(COMMANDS[command][0]))
    assert [name for name in options if "." not in name and guessed(name, "", options)] == []


def test_options_of_the_model_have_one_place(dfpc):
    config = COMMANDS["prune"][0]
    given = ["x", "--weights", "w", "--options.num_classes=3", "--pretrained", "--size", "8", "--batch_size", "2"]
    assert respelt(given, config) == [
        "x", "--model.weights", "w", "--model.options.num_classes=3", "--model.pretrained=true", "--model.size", "8",
        "--batch_size", "2",
    ]  # fmt: skip
    assert respelt(["--model.pretrained", "false", "--prune.whole_heads"], config) == [
        "--model.pretrained", "false", "--prune.whole_heads=true"
    ]  # fmt: skip
    assert respelt(["--model.weights", "w", "--model.name", "x"], COMMANDS["score"][0]) == [
        "--weights", "w", "--model.name", "x"
    ]  # fmt: skip
    code, out, _ = dfpc("prune", "--pretrained", "test_resnet", "--export.onnx", "--print_config")
    content = yaml.safe_load(out)
    assert code == 0 and content["model"]["name"] == "test_resnet"
    assert content["model"]["pretrained"] and content["export"]["onnx"]
