"""Train small networks on CIFAR-10, for benchmarks of architectures without public CIFAR weights.

    python examples/benchmarks/train_on_cifar.py --network vit --train_images train.zip --val_images val.zip --output vit.safetensors

Each takes less than an hour on two cores, and minutes on a GPU.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from cifar_resnet import accuracy
from jsonargparse import auto_cli
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from dfpc_plugin.data import open_images
from dfpc_plugin.models import ModelSpec, build_model
from dfpc_plugin.models.library import IMAGENET


@dataclass(frozen=True)
class Course:
    """A network of `dfpc.build_model` and how it is trained; `clip` is the largest norm of a gradient."""

    name: str
    options: dict[str, Any]
    optimizer: Literal["SGD", "AdamW"]
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int = 20
    clip: float = 1.0


NETWORKS = {
    "bottleneck": Course(
        "cifar/resnet50",
        {"base_width": 16},
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        epochs=9,
        clip=100.0,
    ),
    "convnext": Course(
        "convnext_atto",
        {"num_classes": 10, "depths": [2, 2, 4, 2], "dims": [32, 64, 128, 256], "patch_size": 2},
        "AdamW",
        {"lr": 4e-3, "weight_decay": 0.05},
        epochs=25,
    ),
    "vit": Course(
        "vit_tiny_patch16_224",
        {"num_classes": 10, "img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3},
        "AdamW",
        {"lr": 2e-3, "weight_decay": 0.05},
        epochs=16,
    ),
}
BATCH, WARMUP, SMOOTHING, PADDING = 128, 0.2, 0.1, 4


def build(network: str) -> nn.Module:
    """Return an untrained network from `NETWORKS`."""
    course = NETWORKS[network]
    return build_model(ModelSpec(course.name, course.options))


def load(path: Path, split: str, device: str) -> tuple[Tensor, Tensor]:
    """Read all images of a split, `(N, 3, 32, 32)` normalised, and their labels."""
    pairs = list(open_images(path, split, lambda image: torch.from_numpy(np.array(image.convert("RGB")))))
    images = torch.stack([image for image, _ in pairs]).permute(0, 3, 1, 2).to(device) / 255
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in IMAGENET)
    return (images - mean) / std, torch.tensor([label for _, label in pairs], device=device)


def augmented(images: Tensor) -> Tensor:
    """Shift every image by up to four pixels, and flip half of them."""
    count, _, height, width = images.shape
    padded = F.pad(images, (PADDING,) * 4)
    down, across = (torch.randint(0, 2 * PADDING + 1, (count, 1), device=images.device) for _ in range(2))
    rows, columns = (
        down + torch.arange(height, device=images.device),
        across + torch.arange(width, device=images.device),
    )
    columns = torch.where(torch.rand(count, 1, device=images.device) < 0.5, columns.flip(1), columns)
    numbers = torch.arange(count, device=images.device)[:, None, None, None]
    channels = torch.arange(3, device=images.device)[:, None, None]
    return padded[numbers, channels, rows[:, None, :, None], columns[:, None, None, :]]


def train(model: nn.Module, course: Course, images: Tensor, labels: Tensor, epochs: int, console: Console) -> None:
    """Train in place, with a one-cycle learning rate."""
    optimizer = getattr(torch.optim, course.optimizer)(model.parameters(), **course.settings)
    steps = epochs * (len(images) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, course.settings["lr"], steps, pct_start=WARMUP)
    model.train()
    for epoch in range(epochs):
        start, total = time.perf_counter(), torch.zeros((), device=images.device)
        for chosen in torch.randperm(len(images), device=images.device).split(BATCH)[: len(images) // BATCH]:
            loss = F.cross_entropy(model(augmented(images[chosen])), labels[chosen], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), course.clip)
            optimizer.step()
            rate.step()
            total += loss.detach()
        mean = float(total) / (len(images) // BATCH)
        console.print(f"epoch {epoch + 1} of {epochs}: loss {mean:.3f}, {time.perf_counter() - start:.0f} s")


def main(
    network: Literal["bottleneck", "convnext", "vit"],
    train_images: Path,
    val_images: Path,
    output: Path,
    epochs: int | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    seed: int = 0,
) -> None:
    """Train one network and write its weights.

    Args:
        network: The network.
        train_images: A folder or zip archive of images, one folder per class.
        val_images: The same, to measure accuracy on.
        output: A safetensors file.
        epochs: Number of epochs; by default the network's own.
        device: Where to train.
        seed: Random seed of the weights and the order of images.
    """
    console = Console(soft_wrap=True)
    torch.manual_seed(seed)
    course, model = NETWORKS[network], build(network).to(device)
    train(model, course, *load(train_images, "train", device), epochs or course.epochs, console)
    images, labels = load(val_images, "val", device)
    share = accuracy(model, images, labels)
    save_file({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}, output)
    error = (share * (1 - share) / len(images)) ** 0.5
    console.print(f"{output}: {share:.2%} of {len(images)} images, standard error {error:.2%}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
