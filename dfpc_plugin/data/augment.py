"""Augmentation of training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from dfpc_plugin.data.errors import DataError
from dfpc_plugin.plain_data import Checked, Natural, NotNegative, Share, within

Crop = Literal["none", "flip-crop", "random-resized-crop"]
_Area = Annotated[float, within(above=0, most=1)]


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
        """Check the settings.

        Raises:
            DataError: Names the first invalid one.
        """
        super().__post_init__()
        if self.scale[0] > self.scale[1]:
            raise DataError(
                f"scale={self.scale} must be the least and the largest share of an area; give (0.08, 1.0), say."
            )

    @classmethod
    def of(cls, settings: Crop | AugmentSettings) -> AugmentSettings:
        """Return settings for the name of a crop, or the given ones."""
        return settings if isinstance(settings, AugmentSettings) else cls(crop=settings)
