"""Collate images into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.data.errors import DataError


def collate_images(pairs: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Collate pairs of image and label into a batch `(N, C, H, W)` and labels `(N,)`.

    Raises:
        DataError: Images are not tensors, or have different shapes; labels are not whole numbers.
    """
    images = [image for image, _ in pairs]
    strange = next((image for image in images if not isinstance(image, Tensor)), None)
    if strange is not None:
        raise DataError(
            f"The data set gives images as {type(strange).__name__}, not as tensors; open it with a transform, such as "
            f"evaluation_transform(preprocessing)."
        )
    other = next((image for image in images if image.shape != images[0].shape), None)
    if other is not None:
        raise DataError(
            f"Images of one batch have different shapes, {tuple(images[0].shape)} and {tuple(other.shape)}; open the data set "
            f"with a transform that makes them one size."
        )
    return torch.stack(images), torch.as_tensor([label_of(label) for _, label in pairs])


def label_of(label: Any) -> int:
    """Return a label as a number; raises DataError if it is not a whole one of at most 63 bits."""
    try:
        number = int(label)
        whole = bool(number == label) and abs(number) < 2**63
    except (TypeError, ValueError, RuntimeError, OverflowError):  # text, None, tensors of several numbers, infinity
        whole = False
    if not whole:
        raise DataError(
            f"The data set has the label {str(label)[:100]!r}, which is no class; give whole numbers from 0."
        )
    return number
