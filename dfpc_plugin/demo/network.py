"""The demo's images of handwritten digits, and its network (a small timm ResNet)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from dfpc_plugin.data.known_sets import GREYS, load_scans
from dfpc_plugin.models import Preprocessing

IMAGE_SIZE = 48
"""Side of the network's input images; the scans have 8 x 8 pixels."""
_MEAN, _STD = 0.3, 0.37
PREPROCESSING = Preprocessing((1, IMAGE_SIZE, IMAGE_SIZE), (_MEAN,), (_STD,))
"""How an image becomes an input, for those who evaluate a saved network."""
WEIGHTS = Path(__file__).with_name("digits_resnet.safetensors")
"""Made by `examples/benchmarks/train_on_digits.py`; float16 on disk."""
ARCHITECTURE: dict[str, Any] = {
    "layers": (1, 1, 1, 1),
    "channels": (32, 48, 64, 80),
    "stem_type": "deep",
    "stem_width": 16,
    "in_chans": 1,
    "num_classes": 10,
}
"""Arguments of `timm.models.resnet.ResNet`, with basic blocks."""


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


def build_network() -> nn.Module:
    """Return the network with fresh random weights, in evaluation mode."""
    block: Any = BasicBlock  # timm's annotation asks for an instance
    return ResNet(block, **ARCHITECTURE).eval()


def load_network(path: Path = WEIGHTS) -> nn.Module:
    """Return the network with the weights in `path`, in float32 and evaluation mode."""
    with torch.random.fork_rng(devices=[]):  # the initial weights, overwritten below, draw random numbers
        model = build_network()
    model.load_state_dict(load_file(path))
    return model


def example_input(batch_size: int = 1) -> torch.Tensor:
    """Return a fixed batch of random images of the network's size."""
    return torch.randn(batch_size, 1, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
