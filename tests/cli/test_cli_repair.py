import json

import pytest
import yaml

from dfpc_plugin.artifact import read_manifest, save_pruned
from dfpc_plugin.pruning.summary import NOT_REPAIRED
from workflow_nets import colour_net
from workflow_runs import ARTIFACT, NET, same_weights, surroundings

VAL = ("--data.val", "digits")


def test_a_repaired_model_carries_on_the_record(dfpc, saved, weights, tmp_path):
    before = surroundings(saved)
    code, out, err = dfpc(
        "repair",
        saved,
        "--factory",
        NET,
        "--weights",
        weights,
        "--repair.method",
        "merge",
        *VAL,
        "--output",
        tmp_path / "out",
        "--json",
    )
    assert (code, err) == (0, "")
    assert surroundings(saved) == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == ARTIFACT
    assert not same_weights(saved, tmp_path / "out")
    old, record = read_manifest(saved).record, json.loads(out)
    assert record == json.loads(json.dumps(read_manifest(tmp_path / "out").record))
    assert [entry["stage"] for entry in record["evaluations"]] == ["before", "pruned", "before repair", "repaired"]
    stages = {entry["stage"]: entry["loss"] for entry in record["evaluations"]}
    assert stages["before repair"] == pytest.approx(stages["pruned"], rel=1e-6)
    assert stages["repaired"] < stages["pruned"]
    assert record["prune"]["repair"]["method"] == "merge"
    assert record["prune"]["couplings"] == old["prune"]["couplings"]
    assert record["layers"] == old["layers"]
    assert NOT_REPAIRED in str(old["prune"]["notes"]) and NOT_REPAIRED not in str(record["prune"]["notes"])
    text = (tmp_path / "out" / "recipe.yaml").read_text()
    assert text.startswith(old["recipe"])
    assert text.splitlines()[-1].startswith("# then repaired: RepairSection(method='merge'")
    assert yaml.safe_load(text) == yaml.safe_load(old["recipe"])


def test_images_without_labels_do_too(dfpc, saved, weights, tmp_path):
    code, out, err = dfpc(
        "repair", saved, "--factory", NET, "--weights", weights, "--repair.method", "calibrate", "--repair.count", "64",
        "--data.train", "digits", "--output", tmp_path / "out",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "calibrate" in out
    assert not same_weights(saved, tmp_path / "out")
    assert dfpc("repair", saved, "--factory", NET, "--weights", weights, "--repair.method", "mean", "--output", tmp_path / "out") == (
        1, "", f"Cannot write '{tmp_path / 'out'}': it exists; name another directory, or pass --overwrite.\n"
    )  # fmt: skip
    assert dfpc(
        "repair", saved, "--factory", NET, "--weights", weights, "--repair.method", "mean", "--output", tmp_path / "out", "--overwrite",
        "--quiet",
    ) == (0, "", "")  # fmt: skip


def test_the_method_goes_by_whether_there_are_images(dfpc, saved, weights, tmp_path):
    common = ("repair", saved, "--factory", NET, "--weights", weights, "--overwrite", "--output", tmp_path / "out")
    _, out, _ = dfpc(*common)
    assert "Repaired by merge:" in out and "merge is the default without images; --repair.method takes another." in out
    _, out, _ = dfpc(*common, "--data.train", "digits", "--repair.count", "64")
    assert "Repaired by calibrate:" in out and "calibrate is the default with images" in out
    _, out, _ = dfpc(*common, "--repair.method", "mean")
    assert "Repaired by mean:" in out and "default" not in out


def test_exports_of_the_old_model_are_not_claimed(dfpc, saved, weights, tmp_path):
    assert dfpc(
        "prune", NET, "--model.size", "8", "--model.weights", weights, "--export.program", "true", "--output", tmp_path / "one", "--quiet"
    )[0] == 0  # fmt: skip
    assert read_manifest(tmp_path / "one").record["exports"]
    code, _, err = dfpc(
        "repair",
        tmp_path / "one",
        "--factory",
        NET,
        "--weights",
        weights,
        "--repair.method",
        "mean",
        "--output",
        tmp_path / "two",
    )
    assert (code, err) == (0, "")
    assert read_manifest(tmp_path / "two").record["exports"] == []
    assert not (tmp_path / "two" / "model.pt2").exists()
    assert "model.pt2" not in (tmp_path / "two" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ("--factory", NET),
            1,
            "The weights of the unpruned model are needed too; give the file they are in as weights",
        ),
        (("--weights", "WEIGHTS"), 1, f"if you trust it, say so by --factory {NET}."),
        (("--factory", NET, "--weights", "nope.pth"), 1, "There is no file 'nope.pth' with weights"),
        (
            ("--factory", NET, "--weights", "WEIGHTS", "--repair.method", "none"),
            1,
            "method=none repairs nothing; choose mean, merge",
        ),
        (("--factory", NET, "--weights", "WEIGHTS", "--repair.method", "calibrate"), 1, "data.train"),
        (("--factory", NET, "--weights", "WEIGHTS", "--repair.method", "mrge"), 2, "did you mean merge?"),
        (("--factory", NET, "--weights", "WEIGHTS", "--data.val", "nowhere"), 1, "There is no 'nowhere'"),
        (("--factory", NET, "--weights", "WEIGHTS", "--repair.counts", "3"), 2, "did you mean --repair.count?"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(dfpc, saved, weights, tmp_path, monkeypatch, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    before = surroundings(tmp_path)
    given = [str(weights) if argument == "WEIGHTS" else argument for argument in arguments]
    found, out, err = dfpc("repair", saved, *given, "--output", tmp_path / "out")
    assert (found, out) == (code, "")
    assert text in err
    assert err.count("\n") == 1
    assert surroundings(tmp_path) == before


def test_a_model_that_was_not_pruned_here(dfpc, tmp_path):
    code, out, err = dfpc(
        "repair", "test_resnet", "--pretrained", "--repair.method", "mean", "--output", tmp_path / "out"
    )
    assert (code, out) == (1, "")
    assert "'test_resnet' is no directory of a saved model; dfpc prune repairs on the way." in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preprocessing", [{"size": 3, "means": []}, [1, 2], "x", {}])
def test_a_record_that_makes_no_sense(dfpc, weights, tmp_path, preprocessing):
    save_pruned(
        colour_net().eval(), tmp_path / "net", model=NET, record={"preprocessing": preprocessing, "model": {"size": 8}}
    )
    code, out, err = dfpc(
        "repair", tmp_path / "net", "--factory", NET, "--weights", weights, "--output", tmp_path / "out"
    )
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "does not say how images become inputs" in err or "by this library: preprocessing must be an object" in err
