"""The networks of the CIFAR papers, for images of 32 x 32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.models.library import IMAGENET, Library, Preprocessing

_WIDTHS = (16, 16, 32, 64)
_EXPANSION = 4
_MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, width, number of blocks and stride of the first block."""
_VGG_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
_SIZE = (3, 32, 32)
_OWN = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Mean and standard deviation of CIFAR-10's channels, as in the public checkpoints of these networks."""


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

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        """Build a network with `blocks` blocks in each stage."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(BasicBlock(_WIDTHS[stage - (n == 0)], _WIDTHS[stage]) for n in range(blocks)))
            for stage in (1, 2, 3)
        )
        self.linear = nn.Linear(64, num_classes)

    @property
    def optional_weights(self) -> list[str]:
        """Fixed weights of shortcuts, which checkpoints with parameter-free shortcuts lack."""
        return [name for name, _ in self.named_parameters() if "shortcut" in name]

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` to logits `(N, num_classes)`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


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

    def __init__(self, blocks: Sequence[int], num_classes: int = 10, base_width: int = 64) -> None:
        """Build a network with `blocks` blocks per stage; the first stage is `base_width` wide."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, base_width, 3, 1, 1, bias=False), nn.BatchNorm2d(base_width)

        def stage(number: int, count: int) -> nn.Sequential:
            width = base_width * 2**number
            outputs = width * _EXPANSION
            first = Bottleneck(outputs // 2, width, 2) if number else Bottleneck(base_width, width, 1)
            return nn.Sequential(first, *(Bottleneck(outputs, width, 1) for _ in range(count - 1)))

        self.layer1, self.layer2, self.layer3, self.layer4 = map(stage, range(4), blocks)
        self.fc = nn.Linear(base_width * 2**3 * _EXPANSION, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` to logits `(N, num_classes)`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


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
        for expansion, outputs, count, stride in _MOBILENET_STAGES:
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


class VGG(nn.Module):
    """Sixteen 3x3 convolutions in five stages, each followed by a pooling layer that halves the image."""

    def __init__(self, num_classes: int = 10) -> None:
        """Build the network."""
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, count in _VGG_STAGES:
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` to logits `(N, num_classes)`."""
        return self.classifier(self.features(x).mean((2, 3)))


_RESNETS: dict[str, Callable[..., nn.Module]] = {
    f"resnet{6 * blocks + 2}": functools.partial(ResNet, blocks) for blocks in (3, 5, 7, 9, 18)
}
"""Networks whose public checkpoints expect ImageNet's mean and standard deviation."""
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **_RESNETS,
    "resnet50": functools.partial(BottleneckResNet, (3, 4, 6, 3)),
    "resnet101": functools.partial(BottleneckResNet, (3, 4, 23, 3)),
    "vgg19": VGG,
    "mobilenetv2": MobileNetV2,
}
"""Every network: a function that builds it, and takes num_classes."""


class CifarLibrary(Library):
    """Networks for images of 32 x 32."""

    prefix = "cifar/"

    def names(self) -> Sequence[str]:
        """Names, with the prefix."""
        return [self.prefix + name for name in NETWORKS]

    def build(self, name: str, options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
        """Build a network."""
        if pretrained:
            raise ValueError("no weights of it are published with a library; load some from a file")
        return NETWORKS[name.removeprefix(self.prefix)](**options)

    def preprocessing(self, model: nn.Module, name: str) -> Preprocessing:
        """The preprocessing of the public checkpoints: images in their own size, normalised."""
        return Preprocessing(_SIZE, *(IMAGENET if name.removeprefix(self.prefix) in _RESNETS else _OWN))
