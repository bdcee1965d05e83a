"""Transforms from PIL images to a model's inputs, by timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from dfpc_plugin.data.augment import AugmentSettings, Crop
from dfpc_plugin.data.dataset import Transform
from dfpc_plugin.data.errors import DataError

if TYPE_CHECKING:
    from dfpc_plugin.models import Preprocessing

_MODES = {1: "L", 3: "RGB"}


class _WithChannels:
    """Converts images to grey or colour."""

    def __init__(self, channels: int) -> None:
        """Convert to `channels` channels; raises DataError unless these are 1 or 3."""
        if channels not in _MODES:
            raise DataError(
                f"The model takes {channels} channels, and images have 1 or 3; write a transform of your own."
            )
        self._mode = _MODES[channels]

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.convert(self._mode)


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """Return the transform for evaluation: resize, crop the centre, normalise.

    If `crop_pct` is 1, images of the model's size are not resampled.
    """
    made = create_transform(**_common(preprocessing), is_training=False, crop_pct=preprocessing.crop_pct)
    return transforms.Compose([_WithChannels(preprocessing.size[0]), made])


def training_transform(preprocessing: Preprocessing, augment: Crop | AugmentSettings = "flip-crop") -> Transform:
    """Return the transform for training: augment, then normalise.

    Raises:
        DataError: timm does not know the policy, or the model does not take images.
    """
    settings = AugmentSettings.of(augment)
    if settings.crop == "none":
        return evaluation_transform(preprocessing)
    try:
        crop, vary, finish = create_transform(
            **_common(preprocessing), **_variation(settings), is_training=True, separate=True
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise DataError(
            f"timm cannot follow auto_augment={settings.auto_augment!r} ({error}); see its documentation."
        ) from error
    if settings.crop == "flip-crop":
        crop = _flip_and_crop(preprocessing, settings)
    return transforms.Compose([_WithChannels(preprocessing.size[0]), crop, vary, finish])


def _flip_and_crop(preprocessing: Preprocessing, settings: AugmentSettings) -> Transform:
    """The usual augmentation of small images; timm pads before cropping only if it also resizes."""
    size = preprocessing.size[1:]
    resize = transforms.Resize(size, transforms.InterpolationMode(preprocessing.interpolation))
    return transforms.Compose(
        [resize, transforms.RandomCrop(size, settings.padding), transforms.RandomHorizontalFlip(settings.flip)]
    )


def _common(preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "input_size": preprocessing.size,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }


def _variation(settings: AugmentSettings) -> dict[str, Any]:
    return {
        "scale": settings.scale,
        "hflip": settings.flip,
        "color_jitter": settings.colour_jitter or None,
        "auto_augment": settings.auto_augment,
        "re_prob": settings.erasing,
        "re_mode": "pixel",
    }
