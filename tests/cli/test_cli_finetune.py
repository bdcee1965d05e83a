import json

import pytest
from safetensors.torch import save_file

from dfpc_plugin.artifact import read_manifest
from workflow_nets import colour_net
from workflow_runs import ARTIFACT, NET, same_weights, surroundings

COURSE = ("--data.train", "digits", "--finetune.steps", "16", "--finetune.batch_size", "32", "--finetune.lr", "0.02")
COURSE += ("--data.augment.padding", "1", "--data.augment.flip", "0")


def test_a_tuned_model_carries_on_the_record(dfpc, saved, tmp_path):
    before = surroundings(saved)
    code, out, err = dfpc(
        "finetune", saved, "--factory", NET, *COURSE, "--data.val", "digits", "--output", tmp_path / "out", "--json"
    )
    assert (code, err) == (0, "")
    assert surroundings(saved) == before
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == ARTIFACT
    old, record = read_manifest(saved).record, json.loads(out)
    assert [entry["stage"] for entry in record["evaluations"]] == [
        "before",
        "pruned",
        "before fine-tuning",
        "fine-tuned",
    ]
    stages = {entry["stage"]: entry["loss"] for entry in record["evaluations"]}
    assert stages["before fine-tuning"] == pytest.approx(stages["pruned"], rel=1e-6)
    assert stages["fine-tuned"] < stages["pruned"]
    assert record["finetune"]["history"][-1]["step"] == 16
    assert [point["macs"] for point in record["curve"]][-1] == old["prune"]["after"]["macs"]
    assert record["recipe"].startswith(old["recipe"])
    assert (
        record["recipe"]
        .splitlines()[-1]
        .startswith("# then fine-tuned on digits: FinetuneSettings(epochs=1.0, steps=16")
    )
    assert not same_weights(saved, tmp_path / "out")


def test_the_unpruned_model_teaches(dfpc, saved, weights, tmp_path):
    taught = (*COURSE, "--finetune.distill", "0.9", "--weights", weights, "--factory", NET, "--quiet")
    assert dfpc("finetune", saved, *taught, "--output", tmp_path / "taught") == (0, "", "")
    assert dfpc("finetune", saved, *COURSE, "--factory", NET, "--output", tmp_path / "untaught", "--quiet") == (
        0,
        "",
        "",
    )
    assert dfpc("finetune", saved, *taught, "--output", tmp_path / "again") == (0, "", "")
    assert not same_weights(tmp_path / "taught", tmp_path / "untaught")
    save_file(colour_net().state_dict(), tmp_path / "other.safetensors")
    assert (
        dfpc("finetune", saved, *taught, "--weights", tmp_path / "other.safetensors", "--output", tmp_path / "other")[0]
        == 0
    )
    assert not same_weights(tmp_path / "taught", tmp_path / "other")  # it is this teacher, and no other
    assert same_weights(tmp_path / "taught", tmp_path / "again")


def test_a_model_by_name_is_tuned_too(dfpc, weights, tmp_path):
    code, out, err = dfpc("finetune", NET, "--size", "8", "--weights", weights, *COURSE, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "Written: " in out
    assert read_manifest(tmp_path / "out").record["prune"] is None


def test_an_interrupted_run_goes_on(dfpc, saved, tmp_path, monkeypatch):
    from dfpc_plugin.cli import finetune as module

    whole = module.finetune_opened
    arguments = ("finetune", saved, "--factory", NET, *COURSE, "--finetune.checkpoint_every", "2", "--quiet")

    def stop(name, share):
        if name == "fine-tuning" and share > 0.5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            module, "finetune_opened", lambda *args, **options: whole(*args, **(options | {"progress": stop}))
        )
        assert dfpc(*arguments, "--output", tmp_path / "out")[0] == 130
    code, _, err = dfpc(*arguments, "--output", tmp_path / "out")
    assert code == 1
    assert "go on with it by --resume, or remove it" in err
    code, _, err = dfpc(*arguments, "--output", tmp_path / "out", "--resume", "--finetune.lr", "0.5")
    assert code == 1
    assert "holds a run of another recipe: finetune.lr is not the same." in err
    code, _, err = dfpc(
        "finetune", "test_resnet", "--size", "32", *arguments[4:], "--output", tmp_path / "out", "--resume"
    )
    assert code == 1
    assert "holds a run of another recipe: model.name" in err
    other = ("--finetune.checkpoint_every", "3")  # changes nothing of what comes out
    assert dfpc(*arguments, *other, "--output", tmp_path / "out", "--resume") == (0, "", "")
    assert dfpc(*arguments, "--output", tmp_path / "undisturbed") == (0, "", "")
    assert same_weights(tmp_path / "out", tmp_path / "undisturbed")
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--factory", NET), 1, "Fine-tuning needs images; say where they are in data.train."),
        (COURSE, 1, f"if you trust it, say so by --factory {NET}."),
        (("--factory", NET, "--data.train", "nowhere"), 1, "There is no 'nowhere'"),
        (("--factory", NET, *COURSE, "--data.val", "nowhere"), 1, "There is no 'nowhere'"),
        (
            ("--factory", NET, *COURSE, "--finetune.distill", "0.5"),
            1,
            "The weights of the unpruned model are needed too",
        ),
        (("--factory", NET, *COURSE, "--finetune.distill", "2"), 2, "distill must be 0 to 1, not 2.0"),
        (("--factory", NET, *COURSE, "--finetune.optimizer", "sgdd"), 1, "timm has no optimizer='sgdd'"),
        (("--factory", NET, *COURSE, "--finetune.batch_size", "5000"), 1, "one step takes 5000"),
        (("--factory", NET, *COURSE, "--finetune.lrr", "1"), 2, "did you mean --finetune.lr?"),
        (("--factory", NET, *COURSE, "--finetune.lr", "1e12"), 1, "give a smaller lr"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(dfpc, saved, tmp_path, monkeypatch, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    before = surroundings(tmp_path)
    found, out, err = dfpc("finetune", saved, *arguments, "--output", tmp_path / "out")
    assert (found, out) == (code, "")
    assert text in err
    assert err.count("\n") == 1
    assert surroundings(tmp_path) == before
