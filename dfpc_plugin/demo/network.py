"""The demo's network: a small timm ResNet, and the trained weights that ship with the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from dfpc_plugin.demo.data import IMAGE_SIZE

__all__ = ["ARCHITECTURE", "WEIGHTS", "build_network", "channel_widths", "example_input", "load_network", "reshape_"]

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
    """Return the network with the weights in `path`, in float32 and evaluation mode.

    A file that holds a pruned network is loaded too: the layers take the shapes found in the file.
    """
    state = load_file(path)
    with torch.random.fork_rng(devices=[]):  # fresh weights, which are overwritten, take random numbers
        model = build_network()
    reshape_(model, {name: tensor.shape for name, tensor in state.items()})
    model.load_state_dict(state)
    return model


def example_input(batch_size: int = 1) -> torch.Tensor:
    """Return a batch of random images, always the same, of the size that the network takes."""
    return torch.randn(batch_size, 1, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))


def channel_widths(model: nn.Module) -> dict[str, int]:
    """Map the name of each convolution to its number of output channels."""
    return {name: module.out_channels for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def reshape_(model: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    """Give the convolutions, batch norms and linear layers of `model` new, empty parameters of these shapes, in place.

    Args:
        model: A network of ungrouped convolutions, batch norms and linear layers.
        shapes: The shape of every entry of the `state_dict` it is to load.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = shapes[f"{name}.weight"][:2]
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = shapes[f"{name}.weight"][0]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = shapes[f"{name}.weight"]
        for key, old in module.named_parameters(recurse=False):
            module.register_parameter(key, nn.Parameter(old.new_empty(shapes[f"{name}.{key}"])))
        for key, old in module.named_buffers(recurse=False):
            module.register_buffer(key, old.new_empty(shapes[f"{name}.{key}"]))
