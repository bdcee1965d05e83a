"""Well-known data sets: torchvision's for classification, loaded by its own code, and scikit-learn's digits."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from numpy.typing import NDArray
from PIL import Image

from dfpc_plugin.advice import setting
from dfpc_plugin.data.images import DataError, Images
from dfpc_plugin.require import require

_FLAG = {"train": {"train": True}, "val": {"train": False}, "test": {"train": False}}
_TWO = {"train": {"split": "train"}, "val": {"split": "test"}, "test": {"split": "test"}}
_TRAIN_VAL = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "val"}}
_THREE = {name: {"split": name} for name in ("train", "val", "test")}
_SPLITS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "CIFAR10": _FLAG, "CIFAR100": _FLAG, "MNIST": _FLAG, "FashionMNIST": _FLAG, "KMNIST": _FLAG,
    "SVHN": _TWO, "STL10": _TWO, "Food101": _TWO, "GTSRB": _TWO, "StanfordCars": _TWO,
    "OxfordIIITPet": {"train": {"split": "trainval"}, "val": {"split": "test"}, "test": {"split": "test"}},
    "DTD": _THREE, "Flowers102": _THREE, "FGVCAircraft": _THREE, "PCAM": _THREE,
    "ImageNet": _TRAIN_VAL, "Imagenette": _TRAIN_VAL,
}  # fmt: skip
"""Arguments for each split; in data sets with two splits, the one that is not for training is both val and test."""
_LABELS = ("targets", "labels", "_labels", "_samples")
"""Attributes in which data sets keep their labels."""
TEST_SHARE = 0.3
SPLIT_SEED = 0
GREYS = 16
"""The largest pixel value of a scan."""


class TorchvisionImages(Images):
    """One of torchvision's data sets, with its own order of classes, in which models are trained."""

    def __init__(self, name: str, split: str, root: Path, download: bool) -> None:
        """Load it from files below `root`, laid out as torchvision's documentation says; raises DataError if it cannot."""
        known = {known.lower(): known for known in _SPLITS}
        if name.lower() not in known:
            near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
            hint = f"did you mean torchvision/{known[near[0]]}?" if near else f"there are {', '.join(_SPLITS)}."
            raise DataError(f"'torchvision/{name}' is no data set that is known here; {hint}")
        name = known[name.lower()]
        self.source = f"torchvision's {name}"
        self._data = _load(name, split, root, download)
        self.labels = _labels_of(self._data)
        self.classes = _classes_of(self._data, self.labels)

    def load(self, index: int) -> Image.Image:
        """Read an image."""
        return self._data[index][0]


def _load(name: str, split: str, root: Path, download: bool) -> Any:
    """Let torchvision load it; raises DataError if it cannot."""
    factory = getattr(torchvision.datasets, name)
    arguments = dict(_SPLITS[name][split])
    if download:
        if "download" not in inspect.signature(factory).parameters:
            raise DataError(f"{name} cannot be downloaded; place its files below '{root}' as torchvision describes.")
        arguments["download"] = True
    try:
        return factory(root=str(root), **arguments)
    except (RuntimeError, OSError, ModuleNotFoundError) as error:
        advice = f"say with {setting('root')} where it is" + (
            "" if download else f", or give {setting('download', True)}"
        )
        raise DataError(f"torchvision cannot load {name} from '{root}': {error} To read it, {advice}.") from error


def _labels_of(data: Any) -> tuple[int, ...]:
    """The labels in a data set's attribute, or else those of its images."""
    held: Sequence[Any] | None = next((getattr(data, name) for name in _LABELS if hasattr(data, name)), None)
    if held is None:
        return tuple(int(data[index][1]) for index in range(len(data)))
    return tuple(int(entry[-1] if isinstance(entry, tuple | list) else entry) for entry in held)


def _classes_of(data: Any, labels: Sequence[int]) -> tuple[str, ...]:
    """Names of the classes, or numbers if the data set has no names."""
    names = getattr(data, "classes", None)
    if names is None:
        return tuple(map(str, range(max(labels) + 1)))
    return tuple(", ".join(name) if isinstance(name, tuple) else str(name) for name in names)


def load_scans(split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Load the scans `(N, 8, 8)`, from 0 to 16, and labels `(N,)` of a split: 1257 for "train", 540 for anything else.

    The split is stratified and fixed, because the demo's network was trained on the training part. Raises
    MissingDependencyError if scikit-learn is not installed.
    """
    datasets = require("sklearn.datasets", "scikit-learn", "demo")
    selection = require("sklearn.model_selection", "scikit-learn", "demo")
    pixels, labels = datasets.load_digits(return_X_y=True)
    train, test = selection.train_test_split(
        range(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=SPLIT_SEED
    )
    chosen = train if split == "train" else test
    return pixels[chosen].reshape(-1, 8, 8), labels[chosen]


class DigitImages(Images):
    """Grey images of 8 x 8 pixels: 1257 to train with and 540 to validate or test with, see `load_scans`."""

    source = "scikit-learn's digits"
    classes = tuple("0123456789")

    def __init__(self, split: str) -> None:
        """Load a split; raises MissingDependencyError without scikit-learn."""
        scans, labels = load_scans(split)
        self.labels = tuple(int(label) for label in labels)
        self._pixels = np.rint(scans * (255 / GREYS)).astype(np.uint8)

    def load(self, index: int) -> Image.Image:
        """Return an image."""
        return Image.fromarray(self._pixels[index])
