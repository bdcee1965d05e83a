import math
import sys
import types

import pytest
import timm
import torch
from torch import nn

from dfpc_plugin.errors import UnknownModelError
from dfpc_plugin.models import (
    ModelOptionError,
    ModelSpec,
    WeightsError,
    build_model,
    example_inputs,
    preprocessing_of,
    spec_of,
)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pretrained": True}, "'pretrained' is no option that describes 'resnet18'"),
        ({"checkpoint_path": "evil.pth"}, "'checkpoint_path' is no option"),
        ({"weights_backbone": "DEFAULT"}, "'weights_backbone' is no option"),
        ({"act layer": "relu"}, "'act layer' is no name for an option"),
        ({"norm_layer": nn.BatchNorm2d}, "is a type; options are numbers, text, and lists of these"),
        ({"drop_rate": math.nan}, "is a float; options are numbers"),
        (7, "must be names with values, not 7"),
    ],
)
def test_options_are_plain_and_fetch_nothing(options, said):
    with pytest.raises(ModelOptionError) as caught:
        ModelSpec("resnet18", options)
    assert said in str(caught.value)


def test_a_description_survives_json():
    spec = ModelSpec("vit_tiny_patch16_224", {"img_size": [64, 64], "depth": 1, "extra": {"a": (1, [2])}})
    assert spec.options["img_size"] == (64, 64)
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "described by its name and options"),
        ({"name": "resnet18"}, "described by its name and options"),
        ({"name": 3, "options": {}}, "A model's name is text, not 3"),
        ({"name": "hf-hub:timm/resnet18", "options": {}}, "'hf-hub:timm/resnet18' would be fetched"),
        ({"name": "local-dir:/tmp", "options": {}}, "would be fetched"),
    ],
)
def test_descriptions_from_others_are_checked(content, said):
    with pytest.raises(ModelOptionError) as caught:
        ModelSpec.from_json(content)
    assert said in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"num_classes": 7}, {"in_chans": 1, "num_classes": 0}])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit.r160_in1k", "test_efficientnet"])
def test_timm_models_are_known_again(name, options):
    model = timm.create_model(name, **options)
    twin = build_model(spec_of(model))
    assert [(n, p.shape) for n, p in twin.named_parameters()] == [(n, p.shape) for n, p in model.named_parameters()]


def test_other_models_are_not_known():
    assert spec_of(nn.Linear(2, 2)) is None


def test_options_that_a_builder_does_not_take():
    with pytest.raises(
        ModelOptionError, match=r"'test_resnet' cannot be built with colour='red' \(TypeError: .*colour"
    ):
        build_model(ModelSpec("test_resnet", {"colour": "red"}))


@pytest.mark.parametrize("meta", [False, True])
def test_every_cifar_network_maps_images_to_classes(meta):
    for name in ("resnet20", "resnet50", "vgg19", "mobilenetv2"):
        name = f"cifar/{name}"
        model = build_model(ModelSpec(name, {"num_classes": 7}), meta=meta).eval()
        inputs = example_inputs(model, name, batch_size=2)
        assert inputs.shape == (2, 3, 32, 32)
        assert model(inputs).shape == (2, 7)
        assert preprocessing_of(model, name).size == (3, 32, 32)


def test_a_fixed_shortcut_is_subsampling_and_zeros():
    block = build_model("cifar/resnet20").layer2[0]
    x = torch.randn(1, 16, 8, 8)
    expected = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(block.shortcut(x), expected)


def test_no_weights_are_published_for_cifar_networks():
    with pytest.raises(WeightsError, match="load some from a file"):
        build_model("cifar/resnet20", pretrained=True)


@pytest.fixture
def own(monkeypatch):
    module = types.ModuleType("own_models")
    module.small = lambda width=4: nn.Sequential(nn.Conv2d(3, width, 3))
    module.number = lambda: 3
    module.constant = 3
    monkeypatch.setitem(sys.modules, "own_models", module)


def test_a_model_of_ones_own(own):
    spec = ModelSpec("own_models:small", {"width": 6})
    assert spec.own_code
    assert build_model(spec)[0].out_channels == 6


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("own_models:smal", UnknownModelError, "'own_models:smal' cannot be imported (AttributeError"),
        ("own_models:constant", UnknownModelError, "it is a int, and no function"),
        ("nowhere:small", UnknownModelError, "No module named 'nowhere'"),
        ("own_models:number", ModelOptionError, "it returned a int, not a model"),
    ],
)
def test_what_can_be_wrong_with_it(own, name, kind, said):
    with pytest.raises(kind) as caught:
        build_model(name)
    assert said in str(caught.value)


def test_a_size_of_ones_own():
    model = build_model("test_vit", meta=True)
    assert preprocessing_of(model, "test_vit").size == (3, 160, 160)
    assert preprocessing_of(model, "test_vit", 96).size == (3, 96, 96)
