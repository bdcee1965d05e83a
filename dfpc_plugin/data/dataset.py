"""Open labelled images from any source, as a data set."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from timm.data.imagenet_info import ImageNetInfo
from torch.utils.data import Dataset

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.data.image_files import ArchiveImages, FolderImages
from dfpc_plugin.data.images import DataError, Images, check_split
from dfpc_plugin.data.known_sets import DigitImages, TorchvisionImages
from dfpc_plugin.files import is_directory, is_file
from dfpc_plugin.plain_data import Count, checked

Transform = Callable[[Any], Any]
"""From a PIL image to the model's input, a tensor `(C, H, W)`."""
_TORCHVISION = "torchvision/"


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
        chosen = [self.indices[position] for position in evenly(self.labels, count)]
        return ImageDataset(self.images, self.transform, chosen, self._given_classes)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        """Read, transform and label one image; raises DataError if it cannot be read."""
        index = self.indices[position]
        try:
            image = self.images.load(index)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow and zipfile raise on broken files
            raise DataError(
                f"Cannot read the image '{self.images.name(index)}' of {self.source}: {error}. Replace it or take it out."
            ) from error
        return image if self.transform is None else self.transform(image), self._label(index)


def evenly(labels: Sequence[int], count: int) -> list[int]:
    """Choose at most `count` positions, in turns over the classes; when a class runs out, the others go on.

    Returns them in ascending order; raises DataError if `count` is not positive.
    """
    checked(Count, count, "limit", DataError)
    turns: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)
    ordered = sorted((next(turns[label]), label, position) for position, label in enumerate(labels))
    return sorted(position for _, _, position in ordered[:count])


@checks_arguments
def open_images(
    source: str | os.PathLike[str],
    split: str | None,
    transform: Transform | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    download: bool = False,
    labelled: bool = True,
) -> ImageDataset:
    """Open labelled images.

    Args:
        source: A folder or a zip archive in ImageFolder layout (CLASS/NAME.jpg at any depth, optionally below train/,
            val/ or test/), `torchvision/NAME`, or `digits`, scikit-learn's. Classes of folders and archives, empty ones
            included, are numbered in alphabetical order; data sets keep their own numbers.
        split: "train", "val" or "test". If a source has only one of val and test, it serves as both; a folder or an
            archive without folders for splits serves as all three. If labels are not needed, None takes "train", or the
            only split there is.
        transform: Applied to every image, such as `evaluation_transform(preprocessing)`; None leaves PIL images.
        root: For `torchvision/NAME`: the folder that holds the data set; by default the working directory.
        limit: Largest number of images, evenly over the classes and always the same ones.
        download: For `torchvision/NAME`: download it if it is not there.
        labelled: False if labels are not needed, as for calibration: then no folders of classes are needed.

    Raises:
        DataError: There is no such source or split, or it holds no images.
    """
    if split is not None or labelled:
        check_split(split)
    dataset = ImageDataset(_open(os.fspath(source), split, root, download, labelled), transform)
    return dataset if limit is None else dataset.limited(limit)


def _open(
    source: str, split: str | None, root: str | os.PathLike[str] | None, download: bool, labelled: bool
) -> Images:
    if source.startswith(_TORCHVISION):
        return TorchvisionImages(source.removeprefix(_TORCHVISION), split or "train", Path(root or "."), download)
    if root is not None or download:
        raise DataError(f"root and download are for torchvision/NAME; '{source}' is none, leave them out.")
    if source == "digits":
        return DigitImages(split or "train")
    path = Path(source)
    if is_directory(path):
        return FolderImages(path, split, labelled=labelled)
    if is_file(path):
        return ArchiveImages(path, split, labelled=labelled)
    raise DataError(f"There is no '{source}'; give a folder, a zip archive, torchvision/NAME, or digits.")
