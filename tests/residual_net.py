"""A residual network with two blocks, and how to look at its couplings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfpc_plugin.couplings import DataFlowCoupling

IMAGE = torch.rand(1, 3, 8, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


def places(coupling: DataFlowCoupling) -> set[tuple[str, int, str]]:
    return {(piece.tensor, piece.dim, piece.role) for piece in coupling.slices}


def named(couplings: list[DataFlowCoupling], name: str, protected: bool = False) -> DataFlowCoupling:
    (found,) = [c for c in couplings if c.name == name and bool(c.protected) is protected]
    return found
