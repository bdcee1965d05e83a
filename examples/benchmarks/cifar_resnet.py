"""Load CIFAR ResNets and images for the benchmarks, and measure accuracy."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dfpc_plugin.data import evaluation_transform, open_images
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.models import Preprocessing, build_model, load_weights
from dfpc_plugin.models.library import IMAGENET


def load_network(path: Path) -> nn.Module:
    """Build the network that fits the file's keys, and load its weights."""
    with safe_open(path, "pt") as file:
        blocks = 1 + max(int(key.split(".")[1]) for key in file.keys() if key.startswith("layer1."))
    model = build_model(f"cifar/resnet{6 * blocks + 2}")
    load_weights(model, path)
    return model.eval()


def load_images(path: Path, count: int, split: str = "val") -> tuple[Tensor, Tensor]:
    """Read `count` images, evenly over the classes and sorted by class."""
    dataset = open_images(path, split, evaluation_transform(Preprocessing((3, 32, 32), *IMAGENET)), limit=count)
    images, labels = zip(*sorted(dataset, key=lambda pair: pair[1]), strict=True)
    return torch.stack(images), torch.tensor(labels)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of the images that a model classifies as their labels say."""
    return evaluate_model(model, TensorDataset(images, labels), 256).top1 / 100
