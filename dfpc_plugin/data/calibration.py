"""Unlabelled images for repair."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dfpc_plugin.data.collate import collate_images
from dfpc_plugin.data.errors import DataError
from dfpc_plugin.generators import generators_kept


def calibration_images(dataset: Dataset[tuple[Tensor, int]], count: int, seed: int = 0) -> Tensor:
    """Draw images at random, without their labels, for `repair="calibrate"`.

    Args:
        dataset: A map-style data set of pairs (image, label).
        count: Number of images.
        seed: Random seed.

    Returns:
        Images `(count, C, H, W)`.

    Raises:
        DataError: There are fewer, or they are not tensors of one shape.
    """
    available = len(dataset)  # type: ignore[arg-type]
    if not 1 <= count <= available:
        raise DataError(f"Cannot draw {count} images of {available}; ask for 1 to {available}.")
    chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    with generators_kept():  # transforms may draw
        return collate_images([dataset[index] for index in chosen.tolist()])[0]
