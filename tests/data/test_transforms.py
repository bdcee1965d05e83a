"""What models get to see."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from dfpc_plugin.data import (
    AugmentSettings,
    DataError,
    calibration_images,
    evaluation_transform,
    open_images,
    training_transform,
)
from dfpc_plugin.models import Preprocessing

SMALL = Preprocessing((3, 32, 32), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
LARGE = Preprocessing((3, 64, 64), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bicubic", 0.875)
GREY = Preprocessing((1, 8, 8), (0.3,), (0.35,))


def photo(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def normalised(image, preprocessing):
    """The formula, by hand."""
    pixels = np.asarray(image, dtype=np.float64) / 255
    return torch.from_numpy((pixels - preprocessing.mean) / preprocessing.std).permute(2, 0, 1).float()


def test_images_of_the_right_size_are_only_normalised():
    image = photo(32, 32)
    assert torch.allclose(evaluation_transform(SMALL)(image), normalised(image, SMALL), atol=1e-6)


def test_larger_images_are_resized_and_cropped():
    image = photo(200, 100)
    resized = image.resize((146, 73), Image.Resampling.BICUBIC)  # the shorter side to 64 / 0.875
    left, top = round((146 - 64) / 2), round((73 - 64) / 2)
    expected = normalised(resized.crop((left, top, left + 64, top + 64)), LARGE)
    assert torch.allclose(evaluation_transform(LARGE)(image), expected, atol=1e-6)


def test_channels_are_the_models():
    grey = open_images("digits", "val")[0][0]
    assert evaluation_transform(SMALL)(grey).shape == (3, 32, 32)
    assert evaluation_transform(GREY)(photo(8, 8)).shape == (1, 8, 8)
    with pytest.raises(DataError, match="The model takes 4 channels, and images have 1 or 3"):
        evaluation_transform(Preprocessing((4, 8, 8), (0.0,) * 4, (1.0,) * 4))


def test_flip_crop_shifts_and_mirrors():
    """Every result is a window of the padded image or of its mirror, and there are many different ones."""
    image = photo(32, 32)
    padded = np.zeros((3, 40, 40), dtype=np.float32)
    whole = normalised(image, SMALL).numpy()
    black = normalised(Image.new("RGB", (1, 1)), SMALL).numpy()
    padded[:] = black
    padded[:, 4:36, 4:36] = whole
    windows = {
        np.round(side[:, y : y + 32, x : x + 32], 4).tobytes()
        for side in (padded, padded[:, :, ::-1]) for y in range(9) for x in range(9)
    }  # fmt: skip
    torch.manual_seed(0)
    transform = training_transform(SMALL)
    found = [np.round(transform(image).numpy(), 4).tobytes() for _ in range(60)]
    assert set(found) <= windows
    assert len(set(found)) > 30


def test_none_is_evaluation():
    image = photo(50, 40)
    assert torch.equal(training_transform(LARGE, "none")(image), evaluation_transform(LARGE)(image))


@pytest.mark.parametrize(
    "settings",
    [
        AugmentSettings("random-resized-crop"),
        AugmentSettings("random-resized-crop", auto_augment="rand-m9-mstd0.5-inc1", erasing=0.5),
        AugmentSettings("flip-crop", colour_jitter=0.4, erasing=1.0),
    ],
)
@pytest.mark.parametrize("preprocessing", [SMALL, LARGE])
def test_timms_augmentation_depends_on_the_generators_alone(settings, preprocessing):
    transform = training_transform(preprocessing, settings)

    def draw(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        return transform(photo(80, 60))

    assert draw(1).shape == preprocessing.size
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"crop": "crop"},
            "crop must be one of 'none', 'flip-crop', 'random-resized-crop', not 'crop'; did you mean flip-crop",
        ),
        ({"padding": -1}, "padding must be 0 or more, not -1"),
        ({"flip": 2}, "flip must be 0 to 1, not 2"),
        ({"erasing": -0.1}, "erasing must be 0 to 1, not -0.1"),
        ({"colour_jitter": -1}, "colour_jitter must be 0 or more, not -1"),
        ({"scale": (0.5, 0.1)}, r"scale=\(0.5, 0.1\) must be the least and the largest share"),
    ],
)
def test_settings_that_cannot_be_meant(arguments, message):
    with pytest.raises(DataError, match=message):
        AugmentSettings(**arguments)


def test_an_unknown_policy_is_named():
    with pytest.raises(DataError, match="timm cannot follow auto_augment='no-such-policy'"):
        training_transform(LARGE, AugmentSettings("random-resized-crop", auto_augment="no-such-policy"))


def test_calibration_images_are_drawn_by_the_seed():
    dataset = open_images("digits", "train", evaluation_transform(GREY))
    images = calibration_images(dataset, 16, seed=1)
    assert images.shape == (16, 1, 8, 8)
    assert torch.equal(images, calibration_images(dataset, 16, seed=1))
    assert not torch.equal(images, calibration_images(dataset, 16, seed=2))
    known = {dataset[i][0].numpy().tobytes() for i in range(len(dataset))}
    assert len({image.numpy().tobytes() for image in images}) == 16
    assert all(image.numpy().tobytes() in known for image in images)
    for count in (0, 1258):
        with pytest.raises(DataError, match=f"Cannot draw {count} images of 1257"):
            calibration_images(dataset, count)
