"""Models that functions of the user's build: what they are called with."""

import pytest
import timm
import torch
from torch import nn

from dfpc_plugin.models import build_model, example_inputs, preprocessing_of
from dfpc_plugin.models.own_code import ModelInputError

NAME = "test_own_code:network"


def network(channels: int = 3, said: dict | None = None) -> nn.Module:
    """A convolution and a classifier."""
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    if said is not None:
        model.default_cfg = said
    return model


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_have_the_channels_that_the_first_convolution_reads(channels):
    model = network(channels)
    assert example_inputs(model, NAME, size=32).shape == (1, channels, 32, 32)
    model(example_inputs(model, NAME, batch_size=2))
    found = preprocessing_of(model, NAME)
    assert found.size == (channels, 224, 224) and len(found.mean) == len(found.std) == channels
    assert (found.mean[0] == 0.485) is (channels == 3), "ImageNet's statistics are those of three channels"


def test_a_model_says_itself_what_it_wants():
    said = {"input_size": (1, 28, 28), "mean": (0.13,), "std": (0.31,), "interpolation": "bicubic", "crop_pct": 0.9}
    found = preprocessing_of(network(1, said), NAME)
    assert (found.size, found.mean, found.std, found.interpolation, found.crop_pct) == tuple(said.values())
    assert example_inputs(network(1, said), NAME).shape == (1, 1, 28, 28)


def test_what_is_not_said_is_guessed():
    found = preprocessing_of(network(3, {"input_size": (3, 64, 64)}), NAME)
    assert found.size == (3, 64, 64) and found.mean == (0.485, 0.456, 0.406)


def test_a_grey_model_of_ones_own_runs(monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent)
    model = build_model(NAME, pretrained=False)
    assert model(example_inputs(model, NAME, size=8)).shape == torch.Size([1, 2])


def test_a_convolution_that_is_made_first_and_runs_last_is_no_guide():
    model = nn.Module()
    model.head, model.stem = nn.Conv2d(16, 4, 1), nn.Conv2d(3, 16, 3)
    assert preprocessing_of(model, NAME).size == (3, 224, 224)


def test_the_first_convolution_is_believed_before_the_configuration_of_other_weights():
    """timm keeps the configuration of its weights for other numbers of channels, too."""
    model = timm.create_model("resnet18", in_chans=1)
    assert example_inputs(model, NAME).shape == (1, 1, 224, 224)
    assert preprocessing_of(model, NAME).mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])


def test_a_configuration_of_timms_class_is_read():
    model = network(3)
    model.default_cfg = timm.models.PretrainedCfg(input_size=(3, 48, 48), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    found = preprocessing_of(model, NAME)
    assert (found.size, found.mean) == ((3, 48, 48), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("said", ["configs/a.yaml", 3, {}])
def test_what_is_no_configuration_is_not_looked_at(said):
    assert preprocessing_of(network(3, said), NAME).size == (3, 224, 224)


@pytest.mark.parametrize("size", [224, (3, 224), (3, 0, 224), ("3", 224, 224)])
def test_sizes_that_make_no_sense_are_refused(size):
    with pytest.raises(ModelInputError, match=r"let it be channels, height and width, as \(3, 224, 224\)"):
        example_inputs(network(3, {"input_size": size}), NAME)
