"""Labelled images from folders, zip archives and well-known data sets, and their transforms.

All other parts take any map-style data set of pairs `(image, label)`.
"""

from dfpc_plugin.data.batches import calibration_images, checked_workers, collate_images, fault_of_dataset
from dfpc_plugin.data.dataset import ImageDataset, open_images
from dfpc_plugin.data.images import DataError
from dfpc_plugin.data.transforms import AugmentSettings, evaluation_transform, training_transform

__all__ = [
    "AugmentSettings",
    "DataError",
    "ImageDataset",
    "calibration_images",
    "checked_workers",
    "collate_images",
    "evaluation_transform",
    "fault_of_dataset",
    "open_images",
    "training_transform",
]
