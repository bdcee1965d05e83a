"""A data set of images with labels, whatever they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from timm.data.imagenet_info import ImageNetInfo
from torch.utils.data import Dataset

from dfpc_plugin.data.errors import DataError
from dfpc_plugin.data.images import Images
from dfpc_plugin.data.limit import evenly

__all__ = ["ImageDataset", "Transform"]

Transform = Callable[[Any], Any]
"""From a PIL image to what the model takes, a tensor `(C, H, W)`."""


class ImageDataset(Dataset[tuple[Any, int]]):
    """Pairs `(image, label)`, the image as the transform makes it.

    Attributes:
        images: The source.
        transform: What every image goes through; None leaves PIL images.
        indices: Which images of the source it has, in this order.
        classes: Names of the classes; the label is the index.
    """

    def __init__(
        self,
        images: Images,
        transform: Transform | None,
        indices: Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Offer all images of a source, or some (their indices), whose classes are the source's or are among `classes`."""
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
        """The label of every image, without reading any."""
        return tuple(map(self._label, self.indices))

    def _label(self, index: int) -> int:
        """The label of an image of the source."""
        label = int(self.images.labels[index])
        return label if self._numbers is None else self._numbers[label]

    def with_transform(self, transform: Transform | None) -> ImageDataset:
        """The same images through another transform."""
        return ImageDataset(self.images, transform, self.indices, self._given_classes)

    def numbered_for(self, outputs: int) -> ImageDataset:
        """The same images, labelled for a model of so many outputs.

        Where a model has ImageNet's 1000 classes and the folders of the data set are named by the WordNet ids of some of these, labels
        become the numbers in ImageNet-1k. Otherwise they stay: positions among the classes of the data set.
        """
        names = ImageNetInfo().label_names()
        if outputs != len(names) or not set(self.images.classes) <= set(names):
            return self
        return ImageDataset(self.images, self.transform, self.indices, names)

    def limited(self, count: int) -> ImageDataset:
        """At most `count` of the images, evenly over the classes: the first ones of each, in the order they have here.

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
        """Read, prepare and label one image.

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
