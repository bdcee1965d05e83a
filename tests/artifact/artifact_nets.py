"""Small networks with everything that an artifact has to keep, built as a user's own code builds them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = torch.rand(2, 3, 6, 6)
TOKENS = torch.rand(2, 5, 3)


class Odd(nn.Module):
    """Attributes and tensors of every kind beside a convolution."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width, self.scale, self.limit, self.label, self.flag = width, 0.5, float("inf"), "of ß", True
        self.sizes, self.nested = [width, 2], ((1, (width, None)), [2.5, "a"])
        self.size, self.table, self.number_type = torch.Size([width, 3]), {"a": 1, 2: (width,)}, torch.float32
        self.cache: Tensor | None = None
        self.kept = [torch.arange(4.0), torch.ones(2, dtype=torch.int64)]
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 1, groups=2)
        self.head = nn.Linear(width, 4)
        self.register_buffer("mask", torch.ones(width))
        self.register_buffer("unsaved", torch.full((width,), 2.0), persistent=False)
        self.register_buffer("later", None)
        self.references = [self.head.weight]
        self.activation = lambda x: F.relu(x) * width

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.relu(self.norm(self.conv(x)))).mean((2, 3))
        return self.head(x * self.mask * self.unsaved * self.scale)


class Tied(nn.Module):
    """Two layers with one weight, and two with one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(6, 6, bias=False) for _ in range(3))
        self.second.weight = self.first.weight
        self.first.register_buffer("mask", torch.ones(6))
        self.second.register_buffer("mask", self.first.mask)
        self.again = self.third

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.third(self.second(self.first(x) * self.first.mask)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lstm, self.head = nn.Linear(3, 6), nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.stem(x))[0])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 8), nn.LayerNorm(8)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


def convolutional(classes: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )  # fmt: skip


def weight_normed() -> nn.Module:
    """Weights that are computed: in a plain attribute by a hook, and by a parametrization."""
    torch.manual_seed(0)
    layers = nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 6, 3))
    return nn.Sequential(*layers, nn.Conv2d(6, 2, 1))


class Positioned(nn.Module):
    """Adds a constant that is a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.bias = torch.rand(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.stem(x) + self.bias)


def number() -> int:
    return 3


def failing() -> nn.Module:
    raise KeyError("nothing to build from")
