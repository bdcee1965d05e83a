"""Scanned handwritten digits: the data set that ships inside scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dfpc_plugin.require import require

__all__ = ["IMAGE_SIZE", "SPLIT_SEED", "TEST_SHARE", "Digits", "load_digits"]

IMAGE_SIZE = 48
"""Side of the images the network sees; the scans have 8 x 8 pixels."""
TEST_SHARE = 0.3
SPLIT_SEED = 0
"""Fixed: the network that ships was trained on this split's training images, and must be tested on the others."""
_MEAN, _STD = 0.3, 0.37


@dataclass(frozen=True)
class Digits:
    """Images `(N, 1, 48, 48)` in float32, normalised, and their labels 0 to 9."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load_digits() -> Digits:
    """Load, enlarge, normalise and split the digits: 1257 to train with and 540 to test with, stratified.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    datasets = require("sklearn.datasets", "scikit-learn", "demo")
    selection = require("sklearn.model_selection", "scikit-learn", "demo")
    pixels, labels = datasets.load_digits(return_X_y=True)
    train, test = selection.train_test_split(
        range(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=SPLIT_SEED
    )
    images = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=IMAGE_SIZE, mode="bilinear", align_corners=False)
    images = (images - _MEAN) / _STD
    targets = torch.as_tensor(labels, dtype=torch.int64)
    return Digits(images[train], targets[train], images[test], targets[test])
