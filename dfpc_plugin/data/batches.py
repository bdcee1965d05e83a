"""Batches of images, their worker processes, and unlabelled images for repair."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dfpc_plugin.data.images import DataError
from dfpc_plugin.generators import generators_kept


def collate_images(pairs: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Collate pairs of image and label into a batch `(N, C, H, W)` and labels `(N,)`.

    Raises DataError if images are not tensors of one shape, or labels not whole numbers.
    """
    odd = next((pair for pair in pairs if not isinstance(pair, tuple | list) or len(pair) != 2), None)
    if odd is not None:
        raise DataError(f"The data set gives a {type(odd).__name__} in place of a pair of an image and its label.")
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


def fault_of_dataset(dataset: Any) -> str | None:
    """What is given in place of a map-style data set, and what to give; None for a data set."""
    if isinstance(dataset, str | os.PathLike):
        return f"the text '{dataset}'; open the images first: open_images('{dataset}', split)"
    if isinstance(dataset, Mapping) or not hasattr(dataset, "__len__"):
        return f"of the type {type(dataset).__name__}; give a map-style data set, such as open_images returns"
    return None


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


def calibration_images(dataset: Dataset[tuple[Tensor, int]], count: int, seed: int = 0) -> Tensor:
    """Draw `count` images `(count, C, H, W)` at random, without their labels, for `repair="calibrate"`.

    `dataset` is a map-style data set of pairs (image, label). Raises DataError if it has fewer, or if they are not
    tensors of one shape.
    """
    available = len(dataset)  # type: ignore[arg-type]
    if not 1 <= count <= available:
        raise DataError(f"Cannot draw {count} images of {available}; ask for 1 to {available}.")
    chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    with generators_kept():  # transforms may draw
        return collate_images([dataset[index] for index in chosen.tolist()])[0]


def checked_workers(workers: int) -> int:
    """Return `workers`; raises DataError if it is negative, or so many processes could bring the machine down."""
    most = max(32, 4 * (os.cpu_count() or 1))
    if not 0 <= workers <= most:
        raise DataError(f"workers={workers} is no number of processes for this machine; give 0 to {most}.")
    return workers
