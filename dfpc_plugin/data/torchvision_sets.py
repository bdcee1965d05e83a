"""torchvision's data sets for classification, loaded by torchvision's own code."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torchvision
from PIL import Image

from dfpc_plugin.data.errors import DataError
from dfpc_plugin.data.layout import check_split

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


class TorchvisionImages:
    """One of torchvision's data sets, with its own order of classes, in which models are trained."""

    def __init__(self, name: str, split: str, root: Path, download: bool) -> None:
        """Load it from files below `root`, laid out as torchvision's documentation says.

        Raises:
            DataError: There is no such data set, its files are missing, or it cannot be downloaded.
        """
        check_split(split)
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

    def name(self, index: int) -> str:
        """Its number in the split."""
        return str(index)


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
        advice = "pass root= where it is" if download else "pass root= where it is, or download=True"
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
