"""A data set of labelled images from any source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from timm.data.imagenet_info import ImageNetInfo
from torch.utils.data import Dataset

from dfpc_plugin.data.errors import DataError
from dfpc_plugin.data.images import Images
from dfpc_plugin.data.limit import evenly

Transform = Callable[[Any], Any]
"""From a PIL image to the model's input, a tensor `(C, H, W)`."""


class ImageDataset(Dataset[tuple[Any, int]]):
    """Transformed images with labels: pairs `(image, label)`.

    Attributes:
        images: The source.
        transform: Applied to every image; None leaves PIL images.
        indices: The images of the source that it has, in this order.
        classes: Names of the classes; the label is the index.
    """

    def __init__(
        self,
        images: Images,
        transform: Transform | None,
        indices: Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Use all images of a source, or those at `indices`; labels index `classes`, by default the source's."""
        self.images, self.transform = images, transform
        self.indices = tuple(range(len(images.labels)) if indices is None else indices)
        self._given_classes = classes
        self.classes = tuple(images.classes if classes is None else classes)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._numbers = [numbers[name] for name in images.classes] if classes is not None else None

    @property
    def source(self) -> str:
        """Where the images come from, in the user's words."""
        return self.images.source

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of every image; no image is read."""
        return tuple(map(self._label, self.indices))

    def _label(self, index: int) -> int:
        label = int(self.images.labels[index])
        return label if self._numbers is None else self._numbers[label]

    def with_transform(self, transform: Transform | None) -> ImageDataset:
        """The same images with another transform."""
        return ImageDataset(self.images, transform, self.indices, self._given_classes)

    def numbered_for(self, outputs: int) -> ImageDataset:
        """The same images, labelled for a model with `outputs` outputs.

        If the model has ImageNet's 1000 classes, and all folders are named by WordNet ids of these, labels become the
        numbers in ImageNet-1k. Otherwise they stay.
        """
        names = ImageNetInfo().label_names()
        if outputs != len(names) or not set(self.images.classes) <= set(names):
            return self
        return ImageDataset(self.images, self.transform, self.indices, names)

    def limited(self, count: int) -> ImageDataset:
        """At most `count` images, evenly over the classes: the first ones of each, in their order.

        Raises:
            DataError: `count` is not positive.
        """
        chosen = evenly(self.labels, count)
        return ImageDataset(
            self.images, self.transform, [self.indices[position] for position in chosen], self._given_classes
        )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        """Read, transform and label one image.

        Raises:
            DataError: It cannot be read.
        """
        index = self.indices[position]
        try:
            image = self.images.load(index)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow and zipfile raise on broken files
            raise DataError(
                f"Cannot read the image '{self.images.name(index)}' of {self.source}: {error}. Replace it or take it out."
            ) from error
        return image if self.transform is None else self.transform(image), self._label(index)
