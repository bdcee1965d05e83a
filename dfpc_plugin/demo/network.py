"""The demo's network: a small timm ResNet, and its trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from dfpc_plugin.demo.data import IMAGE_SIZE

WEIGHTS = Path(__file__).with_name("digits_resnet.safetensors")
"""Made by `python -m dfpc_plugin.demo.train`; float16 on disk."""
ARCHITECTURE: dict[str, Any] = {
    "layers": (1, 1, 1, 1),
    "channels": (32, 48, 64, 80),
    "stem_type": "deep",
    "stem_width": 16,
    "in_chans": 1,
    "num_classes": 10,
}
"""Arguments of `timm.models.resnet.ResNet`, with basic blocks."""


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
