"""Labelled images from folders, zip archives and well-known data sets, and their transforms.

All other parts take any map-style data set of pairs `(image, label)`.
"""

from __future__ import annotations

from dfpc_plugin.data.augment import AugmentSettings
from dfpc_plugin.data.calibration import calibration_images
from dfpc_plugin.data.collate import collate_images
from dfpc_plugin.data.dataset import ImageDataset
from dfpc_plugin.data.errors import DataError
from dfpc_plugin.data.source import open_images
from dfpc_plugin.data.transforms import evaluation_transform, training_transform
from dfpc_plugin.data.workers import checked_workers

__all__ = [
    "AugmentSettings",
    "DataError",
    "ImageDataset",
    "calibration_images",
    "checked_workers",
    "collate_images",
    "evaluation_transform",
    "open_images",
    "training_transform",
]
