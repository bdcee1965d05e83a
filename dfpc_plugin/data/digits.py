"""Scanned handwritten digits: the data set that ships inside scikit-learn."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dfpc_plugin.data.layout import check_split
from dfpc_plugin.require import require

__all__ = ["DigitImages"]

_TEST_SHARE = 0.3
_SPLIT_SEED = 0


class DigitImages:
    """Grey images of 8 x 8 pixels: 1257 to train with and 540 to validate or test with, stratified and always the same."""

    source = "scikit-learn's digits"
    classes = tuple("0123456789")

    def __init__(self, split: str) -> None:
        """Load and split them.

        Raises:
            DataError: There is no such split.
            MissingDependencyError: scikit-learn is not installed.
        """
        check_split(split)
        datasets = require("sklearn.datasets", "scikit-learn", "demo")
        selection = require("sklearn.model_selection", "scikit-learn", "demo")
        pixels, labels = datasets.load_digits(return_X_y=True)
        train, test = selection.train_test_split(
            range(len(labels)), test_size=_TEST_SHARE, stratify=labels, random_state=_SPLIT_SEED
        )
        chosen = train if split == "train" else test
        self.labels = tuple(int(label) for label in labels[chosen])
        self._pixels = np.rint(pixels[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # scans have 17 greys

    def load(self, index: int) -> Image.Image:
        """Make an image of its pixels."""
        return Image.fromarray(self._pixels[index])

    def name(self, index: int) -> str:
        """Its number in the split."""
        return str(index)
