"""Accuracy after every repair method, for DFPC's rankings and Torch-Pruning's criteria, on a trained CIFAR ResNet.

    python examples/benchmarks/repair_on_cifar.py --weights resnet56.safetensors --images val.zip --unlabelled train.zip

`weights` and `images` are as for `criteria_on_cifar.py`; `unlabelled` is a zip of class folders with images for
`calibrate`, whose labels are not used. All criteria prune to the same budgets by the same selection, and all methods
repair the same pruned models. Synthetic images are generated once per network. Nothing is fine-tuned.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from pathlib import Path

import torch
from cifar_resnet import accuracy, load_images, load_network
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from steps import steps
from torch import Tensor, nn

import dfpc_plugin as dfpc
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.repairing import synthesise

ANTICIPATING = "anticipating"
METHODS = ("none", "mean", "merge", "synthetic", "calibrate")


def settings_for(method: str, made: list[Tensor], real: Tensor, seed: int) -> dfpc.RepairSettings:
    """Settings of a method; for `synthetic`, `calibrate` gets the generated images and the ridge of `synthetic`."""
    if method == "synthetic":
        return dfpc.RepairSettings("calibrate", made, count=sum(map(len, made)), ridge=0.03, seed=seed)
    return dfpc.RepairSettings(method, real if method == "calibrate" else None, seed=seed)


def cut_of(
    model: nn.Module, example: Tensor, name: str, speedup: float, settings: dfpc.RepairSettings, rescore: float | None
) -> dfpc.PruneResult:
    """Prune by a criterion; the one that anticipates repair uses the images of the repair."""
    importance = dfpc.RepairedImportance(settings) if name == ANTICIPATING else CRITERIA[name].build()
    between = settings if rescore else None  # iterate: prune, repair, rank again
    return dfpc.prune(model, example, f"macs={1 / speedup}", importance=importance, rescore=rescore, repair=between)


def main(
    weights: Path,
    images: Path,
    unlabelled: Path,
    speedups: tuple[float, ...] = (1.2, 1.35, 1.6, 2.0),
    test_images: int = 1000,
    unlabelled_images: int = 256,
    synthetic_images: int = 256,
    criteria: tuple[str, ...] = (ANTICIPATING, *CRITERIA),
    methods: tuple[str, ...] = METHODS,
    rescore: float | None = None,
    seed: int = 0,
) -> None:
    """Print accuracy per criterion, budget and repair.

    Args:
        weights: The trained network.
        images: The zip of class folders to test on.
        unlabelled: The zip with images for `calibrate`.
        speedups: MACs of the unpruned network over MACs of the pruned one.
        test_images: Number of images to test on, evenly over the classes.
        unlabelled_images: Number of images for `calibrate`, drawn from two thousand.
        synthetic_images: Number of images that `synthetic` generates.
        criteria: The criteria to compare; "anticipating" is DFPC's ranking that anticipates repair.
        methods: The repair methods.
        rescore: Repair and recompute saliency after every such fraction of the channels is pruned.
        seed: Random seed of images, noise, and the random criterion.
    """
    console = Console()
    model = load_network(weights)
    pixels, labels = load_images(images, test_images)
    pool = load_images(unlabelled, 2000, "train")[0]
    real = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:unlabelled_images]]
    start = time.perf_counter()
    made = synthesise(model, pixels[:1], count=synthetic_images, seed=seed)
    console.print(
        f"{synthetic_images} synthetic images in {time.perf_counter() - start:.0f} s, {made.divergence:.3f} nats off"
    )
    base = accuracy(model, pixels, labels)
    seconds: dict[str, list[float]] = defaultdict(list)
    for speedup in speedups:
        table = Table(title=f"{weights.stem}, {speedup}x fewer MACs: {base:.1%} before, {len(pixels)} images")
        for column in ("criterion", *methods):
            table.add_column(column)
        for name in steps(criteria, f"{speedup}x", console):
            cells = []
            for method in methods:
                torch.manual_seed(seed)
                settings = settings_for(method, made.batches, real, seed)
                seen = settings if settings.images is not None else settings_for("synthetic", made.batches, real, seed)
                cut = cut_of(model, pixels[:1], name, speedup, seen, rescore)
                bare = dfpc.replay(copy.deepcopy(model), pixels[:1], cut.removed)
                start = time.perf_counter()
                result = dfpc.repair(bare, model, pixels[:1], settings, removed=cut.removed)
                seconds[method].append(time.perf_counter() - start)
                cells.append(f"{100 * accuracy(result.model, pixels, labels):.1f}")
            label = "DFPC, anticipating repair" if name == ANTICIPATING else CRITERIA[name].label
            table.add_row(label, *cells)
        console.print(table)
    medians = {method: sorted(took)[len(took) // 2] for method, took in seconds.items()}
    console.print("Median seconds per repair: " + ", ".join(f"{name} {took:.1f}" for name, took in medians.items()))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
