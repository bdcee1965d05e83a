import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from dfpc_plugin.artifact import load_pruned, read_manifest
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.data import AugmentSettings, evaluation_transform, open_images
from dfpc_plugin.errors import DFPCError, MissingDependencyError, RepairError
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings
from dfpc_plugin.models import Preprocessing, load_weights
from dfpc_plugin.pruning.summary import NOT_REPAIRED
from dfpc_plugin.repairing.settings import METHODS
from dfpc_plugin.workflow import Recipe, follow_recipe
from dfpc_plugin.workflow.sections import DataSection, ExportSection, ModelSection, PruneSection, RepairSection
from workflow_nets import colour_net
from workflow_runs import ARTIFACT, AUGMENT, NET, same_weights, surroundings, weights_of

DATA = DataSection("digits", "digits", mean=(0.3,), std=(0.35,), augment=AugmentSettings(**AUGMENT))
TUNING = FinetuneSettings(steps=24, batch_size=32, lr=0.03, checkpoint_every=6)
RANDOM = Recipe(ModelSection(NET, size=8), "macs=0.6", DATA)


@pytest.fixture
def recipe(weights):
    return dataclasses.replace(RANDOM, model=ModelSection(NET, weights=weights, size=8))


def names(directory):
    return {path.name for path in directory.iterdir()}


def digits():
    return open_images("digits", "val", evaluation_transform(Preprocessing((3, 8, 8), (0.3,), (0.35,))))


def test_a_run_ends_in_an_artifact(recipe, tmp_path):
    before = surroundings(tmp_path)[:4]
    recipe = dataclasses.replace(recipe, repair=RepairSection("merge"), curve=(0.8,), export=ExportSection(onnx=True))
    outcome = follow_recipe(recipe, tmp_path / "out")
    assert surroundings(tmp_path)[:4] == before
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == ARTIFACT | {"model.onnx"}
    record = outcome.record
    assert [entry["stage"] for entry in record["evaluations"]] == ["before", "repaired"]
    assert [point["label"] for point in record["curve"]] == ["before", "repaired", "macs=0.8"]
    costs = [point["macs"] for point in record["curve"]]
    assert costs[1] <= 0.6 * costs[0] < costs[2] <= 0.8 * costs[0]
    assert [export["path"] for export in record["exports"]] == ["model.onnx"]
    assert json.loads(json.dumps(read_manifest(tmp_path / "out").record)) == json.loads(json.dumps(record))
    assert record["model"]["weights"] == "net.safetensors"  # directories are nobody's business

    # What the record says is true of the model that is there, by other means.
    model = load_pruned(tmp_path / "out", factory=colour_net)
    found = evaluate_model(model, digits())
    assert record["evaluations"][-1]["top1"] == found.top1
    assert record["evaluations"][-1]["loss"] == pytest.approx(found.loss, rel=1e-6)
    original = colour_net()
    load_weights(original, recipe.model.weights)
    assert record["evaluations"][0]["top1"] == evaluate_model(original, digits()).top1 > 70
    images = torch.stack([digits()[number][0] for number in range(540)])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.no_grad():
        assert np.array_equal(outputs.argmax(1), model(images).argmax(1).numpy())
    report = (tmp_path / "out" / "report.html").read_text()
    assert f"{found.top1:.2f}" in report or f"{found.top1:.1f}" in report


def test_random_weights_are_those_of_the_seed(tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        torch.manual_seed(hash(name) % 100)  # what was drawn before has no say
        follow_recipe(dataclasses.replace(RANDOM, data=DataSection(), seed=seed), tmp_path / name)
    assert same_weights(tmp_path / "one", tmp_path / "same")
    assert not same_weights(tmp_path / "one", tmp_path / "other")


def test_trained_weights_are_repaired_by_default_and_random_ones_are_not(recipe, tmp_path):
    trained = follow_recipe(recipe, tmp_path / "trained").record
    asked = follow_recipe(dataclasses.replace(recipe, repair=RepairSection("merge")), tmp_path / "asked").record
    assert trained["prune"]["repair"]["method"] == "merge" and same_weights(tmp_path / "trained", tmp_path / "asked")
    assert trained["evaluations"] == asked["evaluations"] and NOT_REPAIRED not in str(trained["prune"]["notes"])
    own_code = dataclasses.replace(RANDOM, data=DataSection())
    assert follow_recipe(own_code, tmp_path / "own").record["prune"]["repair"] is not None
    random = follow_recipe(Recipe(ModelSection("cifar/resnet20")), tmp_path / "random").record
    assert random["prune"]["repair"] is None
    assert any("are random; load trained ones" in note for note in random["prune"]["notes"])


def test_a_default_repair_that_is_impossible_is_left_out_with_a_note(recipe, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise RepairError("it has no weights.")

    monkeypatch.setitem(METHODS._entries, "merge", dataclasses.replace(METHODS["merge"], repair=refuse))
    record = follow_recipe(recipe, tmp_path / "out").record
    assert record["prune"]["notes"][-1].endswith("is the default, cannot repair this model: it has no weights.")
    assert [entry["stage"] for entry in record["evaluations"]] == ["before", "pruned"]
    with pytest.raises(RepairError, match="it has no weights"):
        follow_recipe(dataclasses.replace(recipe, repair=RepairSection("merge")), tmp_path / "asked")


def test_settings_reach_the_pruning(recipe, tmp_path):
    recipe = dataclasses.replace(
        recipe,
        target="ratio=0.25",
        data=DataSection(),
        prune=PruneSection("magnitude", ignored_layers=("0",), round_to=4),
    )
    record = follow_recipe(recipe, tmp_path / "out").record
    widths = {entry["path"]: entry["after"][1] for entry in record["layers"]}
    assert widths["0"] == 8
    assert widths["3"] % 4 == widths["6"] % 4 == 0
    assert record["prune"]["importance"] == CRITERIA["magnitude"].label
    assert record["evaluations"] == record["curve"] == []


def test_tuning_comes_after_the_cut(recipe, tmp_path):
    outcome = follow_recipe(
        dataclasses.replace(recipe, finetune=dataclasses.replace(TUNING, distill=0.5)), tmp_path / "out"
    )
    assert [entry["stage"] for entry in outcome.record["evaluations"]] == ["before", "repaired", "fine-tuned"]
    assert outcome.record["finetune"]["history"][-1]["step"] == 24
    pruned, tuned = (entry["top1"] for entry in outcome.record["evaluations"][1:])
    assert tuned > pruned
    assert names(tmp_path) == {"out"}


def test_a_schedule_cuts_and_tunes_in_turns(recipe, tmp_path):
    schedule = ScheduleSettings(
        0.15, (0.02,), FinetuneSettings(steps=3, batch_size=32), FinetuneSettings(steps=6, batch_size=32)
    )
    outcome = follow_recipe(dataclasses.replace(recipe, schedule=schedule), tmp_path / "out")
    assert [entry["stage"] for entry in outcome.record["evaluations"]] == ["before", "pruned and tuned"]
    assert outcome.record["prune"]["reached"]["macs"] <= 0.6
    assert names(tmp_path) == {"out"}


def test_an_accuracy_budget_is_kept(recipe, tmp_path):
    record = follow_recipe(dataclasses.replace(recipe, target="max_drop=10"), tmp_path / "out").record
    before, after = (entry["top1"] for entry in record["evaluations"])
    assert before - 10 <= after
    assert record["prune"]["after"]["macs"] < record["prune"]["before"]["macs"]


FAILURES = {
    "missing weights": (
        lambda r, p: dataclasses.replace(r, model=ModelSection(NET, weights=p / "nope.pth", size=8)),
        "There is no file",
    ),
    "weights of another": (
        lambda r, p: dataclasses.replace(r, model=dataclasses.replace(r.model, options={"width": 4})),
        "does not match the model: 0.weight has shape (8, 3",
    ),
    "unknown model": (
        lambda r, p: dataclasses.replace(r, model=ModelSection("test_resne")),
        "did you mean test_resnet",
    ),
    "unknown option": (
        lambda r, p: dataclasses.replace(r, model=ModelSection(NET, {"depth": 3}, size=8)),
        "cannot be built with depth=3",
    ),
    "images too large": (
        lambda r, p: dataclasses.replace(r, model=dataclasses.replace(r.model, size=16)),
        f"'{NET}' cannot be called with inputs of 1x3x16x16",
    ),
    "too few outputs": (
        lambda r, p: dataclasses.replace(r, model=ModelSection(NET, {"classes": 7}, size=8)),
        "The data set has 10 classes, the model 7 outputs",
    ),
    "no such images": (
        lambda r, p: dataclasses.replace(r, data=dataclasses.replace(DATA, val=str(p / "nowhere"))),
        "nowhere'; give a folder",
    ),
    "no such training images": (
        lambda r, p: dataclasses.replace(r, data=dataclasses.replace(DATA, train=str(p / "nowhere"))),
        "nowhere'; give a folder",
    ),
    "means of other channels": (
        lambda r, p: dataclasses.replace(r, data=dataclasses.replace(DATA, mean=(0.1, 0.2))),
        "data.mean has 2 values for 3 channels",
    ),
    "unknown device": (lambda r, p: dataclasses.replace(r, device="gpu"), "device='gpu' is not here"),
    "a device without values": (lambda r, p: dataclasses.replace(r, device="meta"), "device='meta' is not here"),
    "too large a batch": (
        lambda r, p: dataclasses.replace(r, model=dataclasses.replace(r.model, batch_size=10**15)),
        "There is no memory for batch_size=1000000000000000 example inputs of size=8",
    ),
    "beyond all numbers": (
        lambda r, p: dataclasses.replace(r, model=dataclasses.replace(r.model, batch_size=10**30)),
        "There is no memory for",
    ),
    "unknown layers": (
        lambda r, p: dataclasses.replace(r, prune=PruneSection(ignored_layers=("nope",))),
        "holds 'nope'",
    ),
    "too much": (lambda r, p: dataclasses.replace(r, target="macs=0.000001"), "cannot be reached"),
    "unknown optimiser": (
        lambda r, p: dataclasses.replace(r, finetune=dataclasses.replace(TUNING, optimizer="sgdd")),
        "timm has no optimizer='sgdd'",
    ),
    "unknown optimiser of a schedule": (
        lambda r, p: dataclasses.replace(
            r, schedule=ScheduleSettings(final=dataclasses.replace(TUNING, optimizer="sgdd"))
        ),
        "timm has no optimizer='sgdd'",
    ),
    "too large a step": (
        lambda r, p: dataclasses.replace(r, finetune=dataclasses.replace(TUNING, batch_size=2000)),
        "The training set has 1257 images, and one step takes 2000",
    ),
    "too many readers": (
        lambda r, p: dataclasses.replace(r, finetune=dataclasses.replace(TUNING, workers=10**6)),
        "workers=1000000 is no number",
    ),
    "no directory": (None, "there is no directory"),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_what_fails_leaves_nothing(recipe, tmp_path, case, long):
    change, text = FAILURES[case]
    if long and recipe.schedule is None and "schedule" not in case:
        recipe = dataclasses.replace(recipe, finetune=TUNING)  # a run that keeps what it has done
    if change is not None:
        recipe = change(recipe, tmp_path)
    output = tmp_path / ("out" if change is not None else "no/where/out")
    before = surroundings(tmp_path)
    told = []
    with pytest.raises(DFPCError) as caught:
        follow_recipe(recipe, output, progress=lambda name, share: told.append(name))
    assert text in str(caught.value)
    assert surroundings(tmp_path) == before
    assert "fine-tuning" not in told


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    net = colour_net()
    with torch.no_grad():
        net[3].weight[2, 1] = torch.nan
    torch.save(net.state_dict(), tmp_path / "nan.pth")
    before = surroundings(tmp_path)
    with pytest.raises(DFPCError, match=r"3\.weight|'3'"):
        follow_recipe(
            dataclasses.replace(RANDOM, model=ModelSection(NET, weights=tmp_path / "nan.pth", size=8)), tmp_path / "out"
        )
    assert surroundings(tmp_path) == before


def test_weights_in_a_file_that_is_none(recipe, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"model: hello")
    with pytest.raises(DFPCError, match=r"w\.pth"):
        follow_recipe(dataclasses.replace(recipe, model=ModelSection(NET, weights=path, size=8)), tmp_path / "out")
    assert names(tmp_path) == {"w.pth"}


@pytest.mark.parametrize(
    ("module", "package", "extra", "changes"),
    [
        ("jinja2", "jinja2", "report", {}),
        ("accelerate", "accelerate", "finetune", {"finetune": TUNING}),
        ("onnx", "onnx", "export", {"export": ExportSection(onnx=True)}),
        ("onnxscript", "onnxscript", "export", {"export": ExportSection(onnx=True)}),
        ("onnxruntime", "onnxruntime", "export", {"export": ExportSection(onnx=True)}),
    ],
)
def test_missing_packages_are_known_at_once(tmp_path, monkeypatch, module, package, extra, changes):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*dfpc-plugin\[{extra}\]"):
        follow_recipe(dataclasses.replace(RANDOM, **changes), tmp_path / "out")
    assert names(tmp_path) == set()


def test_without_scikit_learn_there_are_no_digits(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match="'scikit-learn'"):
        follow_recipe(RANDOM, tmp_path / "out")
    assert names(tmp_path) == set()


def test_what_is_there_stays_unless_told_otherwise(tmp_path):
    short = dataclasses.replace(RANDOM, data=DataSection())
    follow_recipe(short, tmp_path / "out")
    kept = surroundings(tmp_path)
    with pytest.raises(DFPCError, match=r"out': it exists; name another directory, or pass overwrite"):
        follow_recipe(dataclasses.replace(short, seed=1), tmp_path / "out")
    assert surroundings(tmp_path) == kept
    first = weights_of(tmp_path / "out")
    follow_recipe(dataclasses.replace(short, seed=1), tmp_path / "out", overwrite=True)
    assert any(not torch.equal(tensor, first[name]) for name, tensor in weights_of(tmp_path / "out").items())
    (tmp_path / "out" / "notes.txt").write_text("mine")
    kept = surroundings(tmp_path)
    with pytest.raises(DFPCError, match=r"it holds 'notes.txt', which is no part of an artifact"):
        follow_recipe(short, tmp_path / "out", overwrite=True)
    assert surroundings(tmp_path) == kept


@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, where):
    short = dataclasses.replace(RANDOM, data=DataSection())
    follow_recipe(short, tmp_path / "out")
    kept = surroundings(tmp_path)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(DFPCError, match="No space left on device"):
        patch.setattr(os, where, full)
        follow_recipe(dataclasses.replace(short, seed=1), tmp_path / "other")
    assert surroundings(tmp_path) == kept
    with monkeypatch.context() as patch, pytest.raises(DFPCError, match="No space left on device"):
        patch.setattr(os, "write", full)
        follow_recipe(dataclasses.replace(short, seed=1), tmp_path / "out", overwrite=True)
    assert surroundings(tmp_path) == kept


def test_a_full_disk_under_the_report_and_the_scratch(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = surroundings(tmp_path)
    for target in ("pathlib.Path.replace", "pathlib.Path.mkdir"):
        with monkeypatch.context() as patch, pytest.raises(DFPCError, match="No space left on device"):
            patch.setattr(target, full)
            follow_recipe(dataclasses.replace(RANDOM, data=DataSection()), tmp_path / "out")
        assert surroundings(tmp_path) == before


def test_a_directory_that_may_not_be_written_is_known_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode, **options: False)
    with pytest.raises(DFPCError, match=r"Cannot write '.*out': permission denied"):
        follow_recipe(dataclasses.replace(RANDOM, finetune=TUNING), tmp_path / "out")
    assert names(tmp_path) == set()


def test_a_place_for_the_run_that_cannot_be_made(tmp_path, monkeypatch):
    def refused(self, *arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch, pytest.raises(DFPCError, match=r"Cannot make '.*out.run': Permission denied"):
        patch.setattr(Path, "mkdir", refused)
        follow_recipe(dataclasses.replace(RANDOM, finetune=TUNING), tmp_path / "out")
    assert names(tmp_path) == set()


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise DFPCError("It cannot be exported.")

    monkeypatch.setattr("dfpc_plugin.workflow.outputs.export_onnx", fail)
    with pytest.raises(DFPCError, match="It cannot be exported"):
        follow_recipe(
            dataclasses.replace(RANDOM, data=DataSection(), export=ExportSection(onnx=True)), tmp_path / "out"
        )
    assert names(tmp_path) == set()


def test_after_an_export_that_fails_a_long_run_goes_on_without_it(recipe, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise DFPCError("It cannot be exported.")

    recipe = dataclasses.replace(recipe, finetune=TUNING)
    follow_recipe(recipe, tmp_path / "undisturbed")
    monkeypatch.setattr("dfpc_plugin.workflow.outputs.export_onnx", fail)
    with pytest.raises(DFPCError, match="It cannot be exported"):
        follow_recipe(dataclasses.replace(recipe, export=ExportSection(onnx=True)), tmp_path / "out")
    assert names(tmp_path) == {"undisturbed", "out.run"}
    told = []
    outcome = follow_recipe(recipe, tmp_path / "out", resume=True, progress=lambda name, share: told.append(name))
    assert outcome.pruning is None
    assert "saliency" not in told
    assert names(tmp_path) == {"undisturbed", "out"}
    assert same_weights(tmp_path / "undisturbed", tmp_path / "out")
    assert not yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["export"]["onnx"]
    assert (tmp_path / "out" / "recipe.yaml").read_text() == outcome.record["recipe"]


def test_the_user_of_a_model_keeps_what_they_had(weights, tmp_path):
    """The file with the weights is not touched, and no thread count, gradient mode or determinism is changed."""
    modes = torch.is_grad_enabled(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    content = weights.read_bytes()
    follow_recipe(dataclasses.replace(RANDOM, model=ModelSection(NET, weights=weights, size=8)), tmp_path / "out")
    assert weights.read_bytes() == content
    assert (torch.is_grad_enabled(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == modes
