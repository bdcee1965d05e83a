"""Train the weights that ship with the demo, or others of that network. About a minute on one core.

python examples/benchmarks/train_on_digits.py --seed 1 --output digits1.safetensors
"""

from __future__ import annotations

import math
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import TensorDataset

from dfpc_plugin.data.known_sets import SPLIT_SEED, TEST_SHARE
from dfpc_plugin.demo.network import ARCHITECTURE, WEIGHTS, Digits, build_network, load_digits, load_network
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.files import write_tensors
from dfpc_plugin.generators import generators_kept, seed_torch

EPOCHS = 30
BATCH = 64
PEAK_RATE = 0.1
WARM_UP = 0.1
WEIGHT_DECAY = 5e-4
"""As in the paper's training protocol."""
SEED = 0


def train(digits: Digits, console: Console, *, epochs: int = EPOCHS, seed: int = SEED) -> nn.Module:
    """Train the demo's network on the training images: SGD, cosine schedule, small random rotations and shifts."""
    generator = torch.Generator().manual_seed(seed)
    with generators_kept():
        seed_torch(seed)
        model = build_network().train()
    steps = epochs * (len(digits.train_images) // BATCH)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=PEAK_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step / steps))
    columns = (TextColumn("training"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=steps, loss=math.nan)
        for _ in range(epochs):
            order = torch.randperm(len(digits.train_images), generator=generator)
            for batch in order.split(BATCH)[: steps // epochs]:
                images = _jitter(digits.train_images[batch], generator)
                loss = F.cross_entropy(model(images), digits.train_labels[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                progress.update(bar, advance=1, loss=loss.item())
    return model.eval()


def _rate(done: float) -> float:
    """The share of the peak learning rate: a short linear warm-up, then half a cosine down to zero."""
    if done < WARM_UP:
        return max(done, 1e-3) / WARM_UP
    return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


def _jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate by up to 11 degrees, scale by up to 10 % and shift by up to 7 % of the side, independently per image."""
    angle, scale, right, down = torch.rand(4, len(images), generator=generator) * 2 - 1
    angle, scale = 0.2 * angle, 1 + 0.1 * scale
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([cos, -sin, 0.15 * right, sin, cos, 0.15 * down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    paper = images.min()  # grid_sample fills with zeros, so shift the background to zero
    return F.grid_sample(images - paper, grid, align_corners=False) + paper


def main(output: Path = WEIGHTS, epochs: int = EPOCHS, seed: int = SEED, threads: int = 1) -> None:
    """Train, store in float16, and report the accuracy of the stored weights.

    Args:
        output: File to write; by default the one that ships.
        epochs: Number of epochs.
        seed: Random seed.
        threads: CPU threads; the weights depend on it a little.
    """
    console, before, start = Console(), torch.get_num_threads(), time.perf_counter()
    digits = load_digits()
    test = TensorDataset(digits.test_images, digits.test_labels)
    try:
        torch.set_num_threads(threads)
        model = train(digits, console, epochs=epochs, seed=seed)
    finally:
        torch.set_num_threads(before)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    made = {
        "made_by": f"python examples/benchmarks/train_on_digits.py --epochs {epochs} --seed {seed} --threads {threads}",
        "network": f"timm.models.resnet.ResNet(BasicBlock, {ARCHITECTURE})",
        "data": f"scikit-learn digits, stratified split, test_size={TEST_SHARE}, random_state={SPLIT_SEED}",
        "test_accuracy": f"{evaluate_model(model, test).top1 / 100:.4f}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "scikit-learn")),
        "machine": platform.machine(),
    }
    write_tensors(output, state, made)
    console.print(
        f"{output}: {output.stat().st_size / 1000:.0f} kB, accuracy {evaluate_model(load_network(output), test).top1:.2f} % on "
        f"{len(test)} test images, {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
