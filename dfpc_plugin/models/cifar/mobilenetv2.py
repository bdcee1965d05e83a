"""MobileNetV2 (Sandler et al., 2018) with fewer strides, for images of 32 x 32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, width, number of blocks and stride of the first block."""


class InvertedResidual(nn.Module):
    """Expanding, depthwise and projecting convolutions, beside a shortcut if the stride is one."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        """Build a block."""
        super().__init__()
        width = expansion * inputs
        self.stride = stride
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride == 1 and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        return out + self.shortcut(x) if self.stride == 1 else out


class MobileNetV2(nn.Module):
    """Inverted residuals between a 3x3 convolution and a 1x1 convolution."""

    def __init__(self, num_classes: int = 10) -> None:
        """Build the network."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        blocks = []
        inputs = 32
        for expansion, outputs, count, stride in _STAGES:
            for block in range(count):
                blocks.append(InvertedResidual(inputs, outputs, expansion, 1 if block else stride))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` to logits `(N, num_classes)`."""
        x = torch.relu(self.bn2(self.conv2(self.layers(torch.relu(self.bn1(self.conv1(x)))))))
        return self.linear(x.mean((2, 3)))
