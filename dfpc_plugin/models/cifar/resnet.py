"""The thin ResNets of He et al. (2016) for CIFAR: three stages of 16, 32 and 64 channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDTHS = (16, 16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a shortcut that halves the image is a fixed 1x1 convolution.

    It takes every other pixel and pads the channels with zeros on both sides, like the paper's parameter-free shortcuts
    ("option A").
    """

    def __init__(self, inputs: int, width: int) -> None:
        """Build a block; the image is halved where the width doubles."""
        super().__init__()
        stride = width // inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1:
            spread = nn.Conv2d(inputs, width, 1, stride, bias=False)
            with torch.no_grad():
                spread.weight.zero_()[width // 4 : width // 4 + inputs, :, 0, 0] = torch.eye(inputs)
            self.shortcut = nn.Sequential(spread)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, width, H / stride, W / stride)`."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet of `6 * blocks + 2` layers."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        """Build a network with `blocks` blocks in each stage."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage in (1, 2, 3):
            stack = [BasicBlock(_WIDTHS[stage - (n == 0)], _WIDTHS[stage]) for n in range(blocks)]
            setattr(self, f"layer{stage}", nn.Sequential(*stack))
        self.linear = nn.Linear(64, num_classes)

    @property
    def optional_weights(self) -> list[str]:
        """Fixed weights of shortcuts, which checkpoints with parameter-free shortcuts lack."""
        return [name for name, _ in self.named_parameters() if "shortcut" in name]

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` to logits `(N, num_classes)`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
