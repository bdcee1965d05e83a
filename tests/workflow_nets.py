"""Small networks for images in colour, as recipes name them: workflow_nets:colour_net."""

from __future__ import annotations

from torch import nn

__all__ = ["colour_net"]


def colour_net(*, classes: int = 10, width: int = 8) -> nn.Module:
    """Three convolutions and a linear layer on images of 8 x 8 pixels, with random weights."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, width, 1), (width, 2 * width, 2), (2 * width, 3 * width, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * width * 4, classes))
