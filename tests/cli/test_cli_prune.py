import json
import os
import re
from pathlib import Path

import pytest
import torch
import yaml

from dfpc_plugin.artifact import read_manifest
from workflow_runs import ARTIFACT, DIGITS, NET, TUNED, run_process, same_weights, surroundings, write_recipe

SMALL = ("prune", "test_resnet", "--model.size", "32")


@pytest.fixture
def recipe(weights, tmp_path):
    return write_recipe(tmp_path / "r.yaml", model__weights=str(weights))


def test_a_recipe_ends_in_an_artifact_that_evaluates_alike(dfpc, recipe, tmp_path):
    """Accuracy in the record is what `dfpc evaluate` finds in a new process, to the last digit."""
    code, out, err = dfpc("prune", recipe, "--output", tmp_path / "out", "--repair.method", "merge")
    assert (code, err) == (0, "")
    assert "Asked for macs=0.6" in out
    assert (
        f"Written: {tmp_path / 'out'} (load it with dfpc_plugin.load_pruned; look at {tmp_path / 'out' / 'report.html'})"
        in out
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == ARTIFACT
    known = read_manifest(tmp_path / "out").record["evaluations"][-1]
    assert known["stage"] == "repaired"
    done = run_process("evaluate", tmp_path / "out", "--data", "digits", "--factory", NET, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert {name: found[name] for name in ("top1", "top5", "loss", "count")} == {
        name: known[name] for name in ("top1", "top5", "loss", "count")
    }


def test_the_saved_recipe_makes_the_same_again(dfpc, recipe, tmp_path):
    assert dfpc(
        "prune", recipe, "--output", tmp_path / "one", "--quiet", "--target", "params=0.7", "--prune.per", "macs"
    ) == (0, "", "")
    content = yaml.safe_load((tmp_path / "one" / "recipe.yaml").read_text())
    assert (content["target"], content["prune"]["per"]) == ("params=0.7", "macs")  # options prevail over the file
    assert dfpc("prune", tmp_path / "one" / "recipe.yaml", "--output", tmp_path / "two", "--quiet")[0] == 0
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert dfpc("prune", recipe, "--output", tmp_path / "three", "--quiet")[0] == 0
    assert not same_weights(tmp_path / "one", tmp_path / "three")


def test_the_printed_configuration_is_a_recipe(dfpc, recipe, tmp_path):
    code, out, err = dfpc(
        "prune", recipe, "--repair.method", "mean", "--output", tmp_path / "o", "--seed", "7", "--print_config"
    )
    assert (code, err) == (0, "")
    assert not (tmp_path / "o").exists()
    (tmp_path / "printed.yaml").write_text(out)
    again = dfpc("prune", tmp_path / "printed.yaml", "--print_config")
    assert again == (0, out, "")
    content = yaml.safe_load(out)
    assert content["repair"]["method"] == "mean"
    assert content["seed"] == 7
    assert content["data"] == yaml.safe_load(recipe.read_text())["data"] | {
        key: content["data"][key] for key in content["data"] if key not in DIGITS["data"]
    } | {"augment": content["data"]["augment"]}


def test_later_options_prevail(dfpc, tmp_path):
    write_recipe(tmp_path / "a.yaml", target="macs=0.8")
    write_recipe(tmp_path / "b.yaml", {"target": "macs=0.7"})
    targets = [
        yaml.safe_load(dfpc("prune", tmp_path / "a.yaml", *more, "--print_config")[1])["target"]
        for more in ((), ("--config", tmp_path / "b.yaml"), ("--config", tmp_path / "b.yaml", "--target=macs=0.6"))
    ]
    assert targets == ["macs=0.8", "macs=0.7", "macs=0.6"]


def test_a_bare_name_is_the_model(dfpc, tmp_path):
    code, out, err = dfpc(*SMALL, "--output", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)  # nothing else is on the standard output
    assert record["model"]["name"] == "test_resnet"
    assert record == json.loads(json.dumps(read_manifest(tmp_path / "out").record))


def test_quiet_prints_nothing(dfpc, tmp_path):
    assert dfpc(*SMALL, "--output", tmp_path / "out", "--quiet") == (0, "", "")


def test_progress_goes_to_the_standard_error(dfpc, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("dfpc_plugin.cli.consoles._PATIENCE", -1.0)  # everything is slow
    monkeypatch.setattr("dfpc_plugin.cli.consoles._EVERY", -1.0)
    code, out, err = dfpc("prune", recipe, "--output", tmp_path / "out", "--json", "--data.batch_size", "64")
    assert code == 0
    json.loads(out)
    assert "evaluating: 12%" in err
    assert all(": " in line and line.endswith("%") for line in err.splitlines())


def test_a_saved_model_is_pruned_further(dfpc, tmp_path):
    assert dfpc(*SMALL, "--output", tmp_path / "one", "--target", "macs=0.8", "--quiet")[0] == 0
    assert dfpc("prune", tmp_path / "one", "--output", tmp_path / "two", "--target", "macs=0.8", "--quiet") == (
        0,
        "",
        "",
    )
    one, two = (read_manifest(tmp_path / name).record["prune"] for name in ("one", "two"))
    assert two["before"]["macs"] == one["after"]["macs"]
    assert two["after"]["macs"] <= 0.8 * one["after"]["macs"]
    code, _, err = dfpc("prune", tmp_path / "one", "--model.pretrained", "true", "--output", tmp_path / "three")
    assert code == 1
    assert err == f"'{tmp_path / 'one'}' is a saved model, which has its weights and options; give none beside it.\n"


HINTS = {
    "--modle.name x": "did you mean --model.name?",
    "--model.nmae x": "did you mean --model.name?",
    "--finetune.epoch 3": "did you mean finetune.epochs?",
    "--data.augment.padings 3": "did you mean",
    "--lr 3": "did you mean --finetune.lr?",
    "--prune.importance magnitud": "did you mean magnitude?",
    "--repair.method synthetc": "did you mean synthetic?",
    "--finetune.schedule cosin": "did you mean cosine?",
    "--target mcas=0.5": "did you mean macs?",
    "--repair merge": "'merge' is no option of repair, which is a section; give one of its options, such as --repair.method merge.",
    "--finetune 3": "'3' is no option of finetune, which is a section; give one of its options, as --finetune.NAME.",
    "--finetune.zzzzz 3": "finetune has no option 'zzzzz'. See dfpc prune --help.",
    "--target macs=2": "macs=2 is no share of the MACs to keep",
    "--target macs=nan": "macs=nan",
    "--seed 1.5": "seed: Expected a int. Got value: 1.5.",
    "--seed -1": f"seed must be 0 to {2**63 - 1}, not -1.",
    "--model.size ten": "model.size must be int, not 'ten'",
    "--export.onnx maybe": "'maybe' belongs to no option.",
    "--data.val_split tst": "did you mean test?",
    "--data.batch_size 0": "batch_size must be 1 or more, not 0.",
    "--finetune.lr -1": "lr must be above 0, not -1.0; give 0.01, say.",
}


@pytest.mark.parametrize("line", HINTS)
def test_what_is_mistyped_gets_the_nearest(dfpc, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "r.yaml", TUNED)
    before = surroundings(tmp_path)
    code, out, err = dfpc("prune", recipe, *line.split(" ", 1))
    assert (code, out) == (2, "")
    assert HINTS[line] in err
    assert err.count("\n") == 1
    assert "NestedArg" not in err
    assert "class" not in err
    assert surroundings(tmp_path) == before


def test_an_unknown_model_gets_the_nearest(dfpc, tmp_path):
    code, out, err = dfpc("prune", "test_resnt", "--output", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "No model is called 'test_resnt'; did you mean test_resnet" in err
    assert "did you mean cifar/vgg19" in dfpc("prune", "cifar/vgg18", "--output", tmp_path / "out")[2]
    assert list(tmp_path.iterdir()) == []


def test_without_a_model_it_says_so(dfpc):
    said = "dfpc prune needs a model or a recipe: its name, or a file that ends in .yaml. See dfpc prune --help.\n"
    assert dfpc("prune") == (2, "", said)
    code, out, err = dfpc("prune", "--target", "macs=0.5")
    assert (code, out) == (2, "")
    assert "model.name" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written(dfpc, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = dfpc(*SMALL, "--output", tmp_path / "out")
    tmp_path.chmod(0o700)
    assert code == 1
    assert "permission denied" in err


def test_other_processes_print_nothing(dfpc, tmp_path, monkeypatch):
    """Of several processes, only the first prints and writes."""
    monkeypatch.setenv("RANK", "1")
    assert dfpc(*SMALL, "--output", tmp_path / "out", "--json") == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_other_processes_do_not_mind_that_the_first_has_begun(dfpc, tmp_path, monkeypatch):
    (tmp_path / "out.run").mkdir()
    monkeypatch.setenv("RANK", "1")
    assert dfpc(*SMALL, "--output", tmp_path / "out") == (0, "", "")


@pytest.mark.skipif("DFPC_DATA" not in os.environ, reason="DFPC_DATA names no directory with data")
def test_a_trained_network_of_the_papers(dfpc, tmp_path):
    """cifar/resnet20 with its checkpoint and images: repaired by merge, it is evaluated alike in a new process."""
    data = Path(os.environ["DFPC_DATA"])
    [weights] = sorted(data.rglob("*resnet20*.safetensors"))[:1] or sorted(data.rglob("*resnet20*.pt*"))[:1]
    [images] = sorted(data.rglob("*val*.zip"))[:1] or sorted(data.rglob("*test*.zip"))[:1]
    code, _, err = dfpc(
        "prune", "cifar/resnet20", "--model.weights", weights, "--data.val", images, "--data.limit", "200", "--target", "macs=0.8",
        "--repair.method", "merge", "--output", tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert (code, err) == (0, "")
    before, after = read_manifest(tmp_path / "out").record["evaluations"]
    assert before["top1"] > 85
    done = run_process("evaluate", tmp_path / "out", "--data", images, "--limit", "200", "--json")
    assert json.loads(done.stdout)["top1"] == after["top1"]
    assert json.loads(done.stdout)["loss"] == after["loss"]


def test_an_own_network_without_finite_outputs_is_recorded(dfpc, tmp_path, weights):
    """An accuracy whose loss is no number does not make the record unreadable."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    tensors["10.weight"] *= 1e38
    save_file(tensors, tmp_path / "huge.safetensors")
    recipe = write_recipe(tmp_path / "r.yaml", model__weights=str(tmp_path / "huge.safetensors"))
    code, out, err = dfpc("prune", recipe, "--output", tmp_path / "out", "--json")
    assert code in (0, 1)
    if code == 0:
        json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    else:
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert torch.get_num_threads() >= 1


def test_notes_name_the_options_of_the_command(dfpc, tmp_path):
    code, out, _ = dfpc(*SMALL, "--repair.method", "none", "--output", tmp_path / "out")
    assert code == 0
    assert "dfpc couplings MODEL shows the reasons" in out
    assert "or use --prune.round_to 8." in out
    assert (
        "load trained ones by --model.pretrained or --model.weights FILE" in out or "--repair.method merge takes" in out
    )
    assert "find_couplings" not in out and "round_to=" not in out
    assert "--prune.round_to 8" in (tmp_path / "out" / "report.html").read_text()
    assert dfpc(*SMALL, "--output", tmp_path / "out")[2].endswith("or pass --overwrite.\n")


def test_without_labelled_images_there_is_an_estimate(dfpc, weights, tmp_path):
    options = ("--weights", weights, "--size", "8", "--target", "macs=0.6", "--output", tmp_path / "out")
    code, out, _ = dfpc("prune", NET, *options, "--repair.method", "merge")
    assert code == 0
    before, after = read_manifest(tmp_path / "out").record["prune"]["repair"]["output_error"]
    assert f"On noise, the squared error of the outputs went from {before:.1%} to {after:.1%} of their variance." in out
    assert (
        "Accuracy was not measured; --data.val SOURCE measures it on labelled images. The error of the outputs on noise is an "
        "estimate without labels.\n"
    ) in out


def test_the_files_of_a_run_are_in_its_time_and_share_a_measurement(dfpc, weights, tmp_path):
    options = ("--weights", weights, "--size", "8", "--export.int8", "static", "--export.int8_images", "8")
    fast = ("--latency.min_run_time", "0.01", "--latency.threads", "1")
    code, out, _ = dfpc("prune", NET, *options, *fast, "--output", tmp_path / "out")
    assert code == 0
    (took,) = [line for line in out.splitlines() if line.startswith("Took ")]
    assert re.search(r", exports [\d.]+ s", took)
    assert (
        "Latencies of the files and of PyTorch beside them: measured together, in turns (1x3x8x8, threads: 1)." in out
    )
