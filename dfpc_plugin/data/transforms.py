"""Transforms from PIL images to a model's inputs, by timm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from dfpc_plugin.data.dataset import Transform
from dfpc_plugin.data.images import DataError
from dfpc_plugin.plain_data import Checked, Natural, NotNegative, Share, within

Crop = Literal["none", "flip-crop", "random-resized-crop"]
_Area = Annotated[float, within(above=0, most=1)]
if TYPE_CHECKING:
    from dfpc_plugin.models import Preprocessing

_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class AugmentSettings(Checked, error=DataError):
    """Random augmentation of training images.

    Attributes:
        crop: "none" prepares images as for evaluation, without any augmentation; "flip-crop" is for small images: it
            pads by `padding` pixels and crops to the model's size; "random-resized-crop" takes a part of random size
            and shape, as is usual for ImageNet.
        padding: Pixels of the border for "flip-crop".
        scale: Smallest and largest share of the area for "random-resized-crop".
        flip: Probability of a horizontal flip; 0 for text and digits.
        auto_augment: A policy of timm's, such as "rand-m9-mstd0.5-inc1"; None for none.
        colour_jitter: Largest relative change of brightness, contrast and saturation.
        erasing: Probability that a rectangle is erased.
    """

    crop: Crop = "flip-crop"
    padding: Natural = 4
    scale: tuple[_Area, _Area] = (0.08, 1.0)
    flip: Share = 0.5
    auto_augment: str | None = None
    colour_jitter: NotNegative = 0.0
    erasing: Share = 0.0

    def __post_init__(self) -> None:
        """Check the settings; raises DataError that names the first invalid one."""
        super().__post_init__()
        if self.scale[0] > self.scale[1]:
            raise DataError(
                f"scale={self.scale} must be the least and the largest share of an area; give (0.08, 1.0), say."
            )

    @classmethod
    def of(cls, settings: Crop | AugmentSettings) -> AugmentSettings:
        """Return settings for the name of a crop, or the given ones."""
        return settings if isinstance(settings, AugmentSettings) else cls(crop=settings)


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

    Raises DataError if timm does not know the policy, or the model does not take images.
    """
    settings = AugmentSettings.of(augment)
    if settings.crop == "none":
        return evaluation_transform(preprocessing)
    varied: dict[str, Any] = {
        "scale": settings.scale,
        "hflip": settings.flip,
        "color_jitter": settings.colour_jitter or None,
        "auto_augment": settings.auto_augment,
        "re_prob": settings.erasing,
        "re_mode": "pixel",
    }
    try:
        crop, vary, finish = create_transform(**_common(preprocessing), **varied, is_training=True, separate=True)
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
