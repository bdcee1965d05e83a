"""CIFAR ResNets and images for the benchmarks, from files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, pil_to_tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a shortcut that halves the image is a fixed 1x1 convolution."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        stride = width // inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False))
            nn.init.zeros_(self.shortcut[0].weight)
            with torch.no_grad():
                self.shortcut[0].weight[width // 4 : width // 4 + inputs, :, 0, 0] = torch.eye(inputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """The ResNets of He et al. for CIFAR, `3 * 2 * blocks + 2` layers deep."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for stage in (1, 2, 3):
            stack = [BasicBlock(widths[stage - (n == 0)], widths[stage]) for n in range(blocks)]
            setattr(self, f"layer{stage}", nn.Sequential(*stack))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def load_network(path: Path) -> CifarResNet:
    """Build the network that the file's keys describe."""
    state = load_file(path)
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layer1."))
    model = CifarResNet(blocks)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("shortcut" in key or "num_batches" in key for key in missing), (missing, unexpected)
    return model.eval()


def load_images(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """Read `count` images, evenly over the classes, in a fixed order."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        chosen = [name for kind in classes for name in [n for n in names if f"/{kind}/" in n][: count // len(classes)]]
        pixels = [pil_to_tensor(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen]
    images = normalize(torch.stack(pixels).float() / 255, MEAN, STD)
    return images, torch.tensor([classes.index(name.split("/")[-2]) for name in chosen])
