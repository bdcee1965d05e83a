"""Open images by the name of their source."""

from __future__ import annotations

import os
from pathlib import Path

from dfpc_plugin.data.archive import ArchiveImages
from dfpc_plugin.data.dataset import ImageDataset, Transform
from dfpc_plugin.data.digits import DigitImages
from dfpc_plugin.data.errors import DataError
from dfpc_plugin.data.folder import FolderImages
from dfpc_plugin.data.images import Images
from dfpc_plugin.data.layout import check_split
from dfpc_plugin.data.torchvision_sets import TorchvisionImages
from dfpc_plugin.files import is_directory, is_file

_TORCHVISION = "torchvision/"


def open_images(
    source: str | os.PathLike[str],
    split: str,
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
            archive without folders for splits serves as all three.
        transform: Applied to every image, such as `evaluation_transform(preprocessing)`; None leaves PIL images.
        root: For `torchvision/NAME`: the folder that holds the data set; by default the working directory.
        limit: Largest number of images, evenly over the classes and always the same ones.
        download: For `torchvision/NAME`: download it if it is not there.
        labelled: False if labels are not needed, as for calibration: then no folders of classes are needed.

    Raises:
        DataError: There is no such source or split, or it holds no images.
    """
    dataset = ImageDataset(_open(os.fspath(source), split, root, download, labelled), transform)
    return dataset if limit is None else dataset.limited(limit)


def _open(source: str, split: str, root: str | os.PathLike[str] | None, download: bool, labelled: bool) -> Images:
    check_split(split)
    if source.startswith(_TORCHVISION):
        return TorchvisionImages(source.removeprefix(_TORCHVISION), split, Path(root or "."), download)
    if root is not None or download:
        raise DataError(f"root and download are for torchvision/NAME; '{source}' is none, leave them out.")
    if source == "digits":
        return DigitImages(split)
    path = Path(source)
    if is_directory(path):
        return FolderImages(path, split, labelled=labelled)
    if is_file(path):
        return ArchiveImages(path, split, labelled=labelled)
    raise DataError(f"There is no '{source}'; give a folder, a zip archive, torchvision/NAME, or digits.")
