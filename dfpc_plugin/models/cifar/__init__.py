"""The networks of the CIFAR papers, for images of 32 x 32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from dfpc_plugin.models.cifar.bottleneck import BottleneckResNet
from dfpc_plugin.models.cifar.mobilenetv2 import MobileNetV2
from dfpc_plugin.models.cifar.resnet import ResNet
from dfpc_plugin.models.cifar.vgg import VGG

__all__ = ["NETWORKS", "Network"]


@dataclass(frozen=True)
class Network:
    """A network, and the statistics that its public checkpoints expect.

    Attributes:
        build: Returns the network; takes num_classes.
        imagenet_statistics: Whether images are normalised by ImageNet's mean and standard deviation instead of CIFAR's.
    """

    build: Callable[..., nn.Module]
    imagenet_statistics: bool = False


NETWORKS = {
    **{f"resnet{6 * blocks + 2}": Network(functools.partial(ResNet, blocks), True) for blocks in (3, 5, 7, 9, 18)},
    "resnet50": Network(functools.partial(BottleneckResNet, (3, 4, 6, 3))),
    "resnet101": Network(functools.partial(BottleneckResNet, (3, 4, 23, 3))),
    "vgg19": Network(VGG),
    "mobilenetv2": Network(MobileNetV2),
}
