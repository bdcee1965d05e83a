"""CIFAR ResNets and images for the benchmarks, from files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, pil_to_tensor

from dfpc_plugin.models import build_model, load_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_network(path: Path) -> nn.Module:
    """Build the network that the file's keys describe."""
    with safe_open(path, "pt") as file:
        blocks = 1 + max(int(key.split(".")[1]) for key in file.keys() if key.startswith("layer1."))
    model = build_model(f"cifar/resnet{6 * blocks + 2}")
    load_weights(model, path)
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
