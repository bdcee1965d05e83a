"""The interface of a library of models."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input.

    Attributes:
        size: Channels, height and width.
        mean: Subtracted from each channel of an image scaled to 0..1.
        std: Divides the result, per channel.
        interpolation: How images are resized.
        crop_pct: Side of the centre crop, as a share of the resized image's side.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels."""


def configuration_of(model: nn.Module) -> dict[str, Any]:
    """A model's `pretrained_cfg` or `default_cfg` as a dict; {} unless it is a mapping or a dataclass, as in timm."""
    found = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        found = dataclasses.asdict(found)
    return dict(found) if isinstance(found, Mapping) else {}


def spread(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value per channel; their average for all channels if the number of values differs."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


class Library(ABC):
    """Builds models by name.

    Attributes:
        prefix: The prefix of its names.
    """

    prefix = ""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """All names, with the prefix."""

    def find_fault(self, name: str) -> str | None:
        """What is wrong with a name with this prefix: '' if it is unknown, a sentence, or None if it is right."""
        return None if name in self.names() else ""

    @abstractmethod
    def build(self, name: str, options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
        """Build a model; nothing is fetched unless `pretrained`."""

    def shapes(self, model: nn.Module, name: str, size: int | None) -> list[tuple[int, ...]]:
        """Shapes of one example, without the batch axis: by default one image of the preprocessing's size."""
        channels, height, width = self.preprocessing(model, name).size
        return [(channels, size or height, size or width)]

    @abstractmethod
    def preprocessing(self, model: nn.Module, name: str) -> Preprocessing:
        """How images are prepared for a model."""
