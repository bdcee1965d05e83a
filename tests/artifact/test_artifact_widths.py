"""What models state about their widths is kept with them, also within objects that they hold."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from artifact_tools import round_trip
from torch import Tensor, nn

from dfpc_plugin.artifact import (
    ArtifactError,
    UnsavableModelError,
    load_pruned,
    restructure,
    save_pruned,
    structure_of,
    tensors_of,
)
from dfpc_plugin.artifact.deep_equal import holds_parts
from dfpc_plugin.artifact.records import Attribute
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.models import example_inputs
from dfpc_plugin.pruning import prune
from feature_widths import Detector, cut_at_random, stated, widths_of


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "test_convnext", "test_vit"])
def test_a_loaded_model_gets_a_classifier_for_other_classes_and_is_saved_again(name, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    inputs = example_inputs(model, name)
    before = stated(model)
    result = prune(model, inputs, "macs=0.5", importance=CRITERIA["random"].build())
    assert stated(model) == before and stated(result.model)[0] < before[0]
    save_pruned(result, tmp_path / "pruned", example_inputs=inputs)
    config = json.loads((tmp_path / "pruned" / "config.json").read_text())
    loaded = load_pruned(tmp_path / "pruned")
    assert stated(loaded) == stated(result.model) and config["num_features"] == loaded.num_features
    loaded.reset_classifier(7)
    expected = loaded(inputs)
    assert expected.shape == (1, 7)
    again = load_pruned(save_pruned(loaded, tmp_path / "tuned", example_inputs=inputs))
    assert torch.equal(again(inputs), expected) and stated(again) == stated(loaded)


def test_feature_extractors_within_a_model_state_true_widths():
    model, image = Detector().eval(), torch.rand(1, 3, 64, 64)
    cut_at_random(model, image)
    structure = structure_of(model, Detector())
    assert [(entry.module, entry.name) for entry in structure.attributes if "." in entry.name] == [
        ("body", "feature_info.info")
    ]
    loaded = round_trip(model, Detector(), Detector()).eval()
    assert loaded.body.feature_info.channels() == widths_of(loaded.body(image)) == [34, 135, 68]
    assert loaded.body.feature_info.info == model.body.feature_info.info and torch.equal(loaded(image), model(image))


@pytest.mark.skipif(not hasattr(timm.models, "get_model_args"), reason="this timm's models do not know their options")
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_feature_extractors_alone_are_saved(name, tmp_path):
    model = timm.create_model(name, features_only=True, out_indices=(2,)).eval()
    inputs = example_inputs(model, name)
    cut_at_random(model, inputs)
    loaded = load_pruned(save_pruned(model, tmp_path / "features", example_inputs=inputs))
    assert loaded.feature_info.info == model.feature_info.info
    assert torch.equal(loaded(inputs)[0], model(inputs)[0])


COMMON = SimpleNamespace(width=6, name="of all", shares=(1, 2), kept=torch.ones(2))
"""Settings that all models share, as they do in timm."""


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.settings = COMMON
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def configured(**changes: Any) -> Configured:
    model = Configured()
    model.settings = copy.deepcopy(COMMON)
    vars(model.settings).update(changes)
    return model


def test_objects_that_others_share_are_replaced_rather_than_written_to():
    model = configured(width=4, shares=(3,), kept=torch.zeros(2))
    loaded = round_trip(model, Configured(), Configured())
    assert vars(loaded.settings).keys() == vars(COMMON).keys() and torch.equal(loaded.settings.kept, torch.zeros(2))
    assert (loaded.settings.width, loaded.settings.name, loaded.settings.shares) == (4, "of all", (3,))
    assert (COMMON.width, COMMON.shares) == (6, (1, 2)) and Configured().settings is COMMON


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": {1}}, "'settings.name' is not as in a freshly built model and cannot be saved: a builtins.set"),
        ({"width": 2.5}, "'settings.width' is 2.5, of type float, where a freshly built model has one of type int"),
        ({"new": 3}, "'settings' is not as in a freshly built model and cannot be saved: a types.SimpleNamespace"),
    ],
)
def test_parts_that_cannot_be_saved_are_named(changes, text):
    with pytest.raises(UnsavableModelError) as caught:
        structure_of(configured(**changes), Configured())
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("settings.other", 3, "it sets 'settings.other', which is no attribute"),
        ("settings.__class__", 3, "it sets 'settings.__class__', which is no attribute"),
        ("settings.__dict__", {"dict": []}, "it sets 'settings.__dict__', which is no attribute"),
        ("layer.in_features", 3, "it sets 'layer.in_features', which is no attribute"),
        ("_modules.layer", 3, "it sets '_modules.layer', which is no attribute"),
        ("training.real", 3, "it sets 'training.real', which is no attribute"),
        ("other.width", 3, "it sets 'other.width', which is no attribute"),
        (
            "settings.width",
            "a",
            "it sets 'settings.width' to a value of type str, where a freshly built model has one of type int",
        ),
    ],
)
def test_parts_that_a_freshly_built_model_has_not_are_refused(name, value, text):
    fresh = Configured()
    structure = structure_of(fresh, Configured())
    structure = type(structure)(structure.tensors, structure.absent, (Attribute("", name, value),))
    with pytest.raises(ArtifactError) as caught:
        restructure(fresh, structure, tensors_of(fresh, structure_of(fresh, fresh)))
    assert text in str(caught.value) and vars(fresh)["settings"] is COMMON


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        (SimpleNamespace(a=1), True), (SimpleNamespace(), False), (3, False), ([1], False), (torch.ones(1), False),
        (nn.Identity(), False), (nn.Identity, False), (lambda: 3, False), (None, False),
    ],
)  # fmt: skip
def test_what_holds_parts(value, holds):
    assert holds_parts(value) is holds
