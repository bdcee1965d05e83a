"""Accuracy of DFPC's rankings and Torch-Pruning's criteria on a trained CIFAR ResNet, pruned to equal MACs.

    python examples/benchmarks/criteria_on_cifar.py --weights resnet20.safetensors --images cifar10_val.zip

`weights` holds a CIFAR ResNet (widths 16-32-64, basic blocks; `conv1`, `bn1`, `layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}`,
`linear`) whose shortcuts have no parameters; `images` is a zip of class folders. Every criterion is passed to `prune`,
so selection, budgets and couplings are the same. No fine-tuning; the second number of each pair is after re-estimating
BatchNorm on unlabelled images that are not among the test images.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from cifar_resnet import accuracy, load_images, load_network
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from steps import steps

import dfpc_plugin as dfpc
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.pruning import Per
from dfpc_plugin.repairing.batch_norms import reestimated
from dfpc_plugin.selection import TargetError


def main(
    weights: Path,
    images: Path,
    speedups: tuple[float, ...] = (1.1, 1.2, 1.35, 1.6),
    test_images: int = 1000,
    unlabelled_images: int = 250,
    criteria: tuple[str, ...] = tuple(CRITERIA),
    per: Per = "channel",
    max_ratio: float = 0.9,
    rescore: float | None = None,
    seed: int = 0,
) -> None:
    """Print accuracy per criterion and budget.

    Args:
        weights: The trained network.
        images: The zip of class folders.
        speedups: MACs of the unpruned network over MACs of the pruned one.
        test_images: Number of images to test on.
        unlabelled_images: Number of further images to re-estimate BatchNorm on.
        criteria: The criteria to compare.
        per: Normalisation of every criterion's saliency.
        max_ratio: Largest share of the channels to prune from any coupling.
        rescore: Recompute saliency after every such fraction of the channels is pruned.
        seed: Random seed of the choice of test images and of the random criterion.
    """
    console = Console()
    model = load_network(weights)
    pixels, labels = load_images(images, test_images + unlabelled_images)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    test, unlabelled = order[:test_images], order[test_images:]
    base = accuracy(model, pixels[test], labels[test])
    console.print(f"{weights.stem}: {base:.1%} before pruning")
    table = Table(title=f"{weights.stem}: {base:.1%} on {test_images} images; bare / BatchNorm re-estimated")
    for column in ("criterion", *(f"{speedup}x" for speedup in speedups)):
        table.add_column(column)
    for name in criteria:
        cells: list[str] = []
        for speedup in steps(speedups, CRITERIA[name].label, console):
            torch.manual_seed(seed)
            try:
                cut = dfpc.prune(
                    model,
                    pixels[:1],
                    f"macs={1 / speedup}",
                    importance=CRITERIA[name].build(),
                    per=per,
                    max_ratio=max_ratio,
                    rescore=rescore,
                ).model
            except TargetError:
                cells.append("not reached")
                continue
            repaired = copy.deepcopy(cut).eval()
            with reestimated(repaired, pixels[unlabelled].split(256), None) as keep:
                keep[0] = True
            scores = [accuracy(candidate, pixels[test], labels[test]) for candidate in (cut, repaired)]
            cells.append(" / ".join(f"{100 * score:.1f}" for score in scores))
        table.add_row(CRITERIA[name].label, *cells)
    console.print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
