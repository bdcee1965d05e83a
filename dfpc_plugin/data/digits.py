"""Scanned handwritten digits: the data set in scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dfpc_plugin.data.layout import check_split
from dfpc_plugin.require import require

TEST_SHARE = 0.3
SPLIT_SEED = 0
GREYS = 16
"""The largest pixel value of a scan."""


def load_scans(split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Load the scans `(N, 8, 8)`, from 0 to 16, and labels `(N,)` of a split: 1257 for "train", 540 for anything else.

    The split is stratified and fixed, because the demo's network was trained on the training part.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    datasets = require("sklearn.datasets", "scikit-learn", "demo")
    selection = require("sklearn.model_selection", "scikit-learn", "demo")
    pixels, labels = datasets.load_digits(return_X_y=True)
    train, test = selection.train_test_split(
        range(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=SPLIT_SEED
    )
    chosen = train if split == "train" else test
    return pixels[chosen].reshape(-1, 8, 8), labels[chosen]


class DigitImages:
    """Grey images of 8 x 8 pixels: 1257 to train with and 540 to validate or test with, see `load_scans`."""

    source = "scikit-learn's digits"
    classes = tuple("0123456789")

    def __init__(self, split: str) -> None:
        """Load a split.

        Raises:
            DataError: There is no such split.
            MissingDependencyError: scikit-learn is not installed.
        """
        check_split(split)
        scans, labels = load_scans(split)
        self.labels = tuple(int(label) for label in labels)
        self._pixels = np.rint(scans * (255 / GREYS)).astype(np.uint8)

    def load(self, index: int) -> Image.Image:
        """Return an image."""
        return Image.fromarray(self._pixels[index])

    def name(self, index: int) -> str:
        """Its number in the split."""
        return str(index)
