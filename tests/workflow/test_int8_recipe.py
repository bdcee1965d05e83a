"""int8 as the last step of a recipe, in the record, the report and the files."""

from __future__ import annotations

import dataclasses

import onnxruntime
import pytest
import torch
from torch import nn

from dfpc_plugin.artifact import read_manifest
from dfpc_plugin.data import AugmentSettings, evaluation_transform, open_images
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.models import Preprocessing
from dfpc_plugin.workflow import Recipe, follow_recipe
from dfpc_plugin.workflow.outputs import require_images
from dfpc_plugin.workflow.sections import DataSection, ExportSection, ModelSection, RecipeError
from workflow_runs import ARTIFACT, AUGMENT, NET

DATA = DataSection("digits", "digits", mean=(0.3,), std=(0.35,), augment=AugmentSettings(**AUGMENT))
QUICK = LatencySettings(threads=1, min_run_time=0.01)


@pytest.fixture
def recipe(weights):
    export = ExportSection(int8="static", int8_images=32)
    return Recipe(ModelSection(NET, weights=weights, size=8), "macs=0.7", DATA, latency=QUICK, export=export)


def test_a_quantized_file_is_measured_and_shown(recipe, tmp_path):
    outcome = follow_recipe(recipe, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == ARTIFACT | {"model.onnx", "model-int8.onnx"}
    plain, int8 = read_manifest(tmp_path / "out").record["exports"]
    assert (plain["path"], int8["path"]) == ("model.onnx", "model-int8.onnx")
    assert (int8["kind"], int8["method"], int8["images"], int8["compared"]) == ("ONNX, int8", "static", 24, 8)
    assert int8["images_from"] == "data.train" and set(int8["latency_ms"]) == {"float32", "int8"}

    # The accuracy is that of the file, by onnxruntime itself.
    digits = open_images("digits", "val", evaluation_transform(Preprocessing((3, 8, 8), (0.3,), (0.35,))))
    images = torch.stack([image for image, _ in digits])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model-int8.onnx")
    chosen = session.run(None, {"input": images.numpy()})[0].argmax(1)
    right = sum(int(label) == int(found) for (_, label), found in zip(digits, chosen, strict=True))
    stage = outcome.record["evaluations"][-1]
    assert stage["stage"] == "int8" and stage["top1"] == pytest.approx(
        100 * right / len(digits), abs=1.0
    )  # outputs in steps of 8 bits may tie
    report = (tmp_path / "out" / "report.html").read_text()
    assert "model-int8.onnx" in report.replace("<wbr>", "") and "Exported files" in report


def test_without_images_they_are_made(recipe, tmp_path):
    recipe = dataclasses.replace(recipe, data=DataSection())
    told = []
    outcome = follow_recipe(recipe, tmp_path / "out", progress=lambda name, share: told.append((name, share)))
    assert outcome.record["exports"][1]["images_from"] == "synthetic images"
    for phase in ("images for int8", "exporting model-int8.onnx"):  # both take long with large images
        assert len({share for name, share in told if name == phase}) > 5
    seconds = dict(outcome.record["seconds"])
    assert 0 < seconds["exports"] < seconds["in all"]


def test_latencies_of_all_files_are_of_one_measurement(recipe, tmp_path):
    model = dataclasses.replace(recipe.model, batch_size=3)
    outcome = follow_recipe(dataclasses.replace(recipe, model=model), tmp_path / "out")
    plain, int8 = outcome.record["exports"]
    assert set(plain["latency_ms"]) == {"torch", "onnxruntime"}
    assert int8["latency_ms"]["float32"] == plain["latency_ms"]["onnxruntime"]
    assert plain["latency_conditions"] == int8["latency_conditions"] == "3x3x8x8, threads: 1"
    assert outcome.record["prune"]["after"]["shapes"] == [[3, 3, 8, 8]]
    assert "Latency was measured in PyTorch (3x3x8x8, threads: 1), both models in turns." in str(outcome.pruning)
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Latency was measured in PyTorch on 3x3x8x8 with 1 thread, both models in turns." in report
    assert report.count('<span class="soft">3x3x8x8, threads: 1</span>') == 2


def test_static_without_images_and_without_batch_norms_is_refused():
    with pytest.raises(
        RecipeError, match=r"no batch norm to make them from; say where images are in data.train, or choose"
    ):
        require_images(ExportSection(int8="static"), DataSection(), nn.Linear(3, 3))
    require_images(ExportSection(int8="dynamic"), DataSection(), nn.Linear(3, 3))
    require_images(ExportSection(int8="static"), DATA, nn.Linear(3, 3))


def test_too_few_images_are_refused():
    with pytest.raises(RecipeError, match=r"int8_images must be 4 or more, not 3\."):
        ExportSection(int8="static", int8_images=3)
