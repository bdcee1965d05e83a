"""ResNets of bottleneck blocks, with the widths of ImageNet's, for images of 32 x 32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """Build a block."""
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, 4 width, H / stride, W / stride)`."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        return torch.relu(out + self.downsample(x))


class BottleneckResNet(nn.Module):
    """Four stages after a 3x3 convolution that keeps the image's size."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, blocks: Sequence[int], num_classes: int = 10, base_width: int = 64) -> None:
        """Build a network with `blocks` blocks per stage; the first stage is `base_width` wide."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, base_width, 3, 1, 1, bias=False), nn.BatchNorm2d(base_width)
        inputs = base_width
        for stage, count in enumerate(blocks):
            width = base_width * 2**stage
            stack = []
            for block in range(count):
                stack.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
                inputs = width * _EXPANSION
            setattr(self, f"layer{stage + 1}", nn.Sequential(*stack))
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` to logits `(N, num_classes)`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))
