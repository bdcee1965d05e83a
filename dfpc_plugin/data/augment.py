"""How training images are varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dfpc_plugin.data.errors import DataError

__all__ = ["AugmentSettings", "Crop"]

Crop = Literal["none", "flip-crop", "random-resized-crop"]


@dataclass(frozen=True)
class AugmentSettings:
    """What happens to every training image, at random.

    Attributes:
        crop: "none" prepares images as for evaluation, and nothing else applies; "flip-crop" is for small images: a border
            of `padding` pixels, and a crop of the model's size; "random-resized-crop" takes a part of random size and shape,
            as is usual for ImageNet.
        padding: Pixels of the border for "flip-crop".
        scale: Least and largest share of the area for "random-resized-crop".
        flip: Probability of a mirror image; 0 for text and digits.
        auto_augment: A policy of timm's, such as "rand-m9-mstd0.5-inc1"; None for none.
        colour_jitter: By which share brightness, contrast and saturation vary.
        erasing: Probability that a rectangle is blanked.
    """

    crop: Crop = "flip-crop"
    padding: int = 4
    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    auto_augment: str | None = None
    colour_jitter: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        """Raise on settings that cannot be meant.

        Raises:
            DataError: Says which.
        """
        if self.crop not in get_args(Crop):
            raise DataError(f"crop={self.crop!r} is none of {', '.join(get_args(Crop))}; choose one of them.")
        if self.padding < 0:
            raise DataError(f"padding={self.padding} is no number of pixels; give 0 or more.")
        for name in ("flip", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name}={getattr(self, name)} is no probability; give 0 to 1.")
        if self.colour_jitter < 0:
            raise DataError(f"colour_jitter={self.colour_jitter} is no share; give 0 or more.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise DataError(f"scale={self.scale} are no shares of an area; give (0.08, 1.0), say.")

    @classmethod
    def of(cls, settings: Crop | AugmentSettings) -> AugmentSettings:
        """Read what a user writes: the name of a crop, or settings as they are."""
        return settings if isinstance(settings, AugmentSettings) else cls(crop=settings)
