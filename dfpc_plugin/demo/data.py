"""The demo's images of handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dfpc_plugin.data.digits import GREYS, load_scans

IMAGE_SIZE = 48
"""Side of the network's input images; the scans have 8 x 8 pixels."""
_MEAN, _STD = 0.3, 0.37


@dataclass(frozen=True)
class Digits:
    """Normalised float32 images `(N, 1, 48, 48)`, and their labels 0 to 9."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load_digits() -> Digits:
    """Load, enlarge and normalise the digits; raises as `load_scans` does."""
    (train, train_labels), (test, test_labels) = load_scans("train"), load_scans("test")
    return Digits(_prepared(train), torch.as_tensor(train_labels), _prepared(test), torch.as_tensor(test_labels))


def _prepared(scans: NDArray[np.float64]) -> torch.Tensor:
    images = torch.as_tensor(scans, dtype=torch.float32)[:, None] / GREYS
    images = F.interpolate(images, size=IMAGE_SIZE, mode="bilinear", align_corners=False)
    return (images - _MEAN) / _STD
