"""Accuracy against latency, for DFPC with and without repair and for other criteria.

    python examples/benchmarks/latency_on_cifar.py --weights resnet56.safetensors --images val.zip --output tradeoff.json

`weights` are those of a CIFAR ResNet, and `images` a zip of class folders. All criteria prune to the same budgets by the same selection;
nothing is fine-tuned. Every pruned model is measured in turns with the unpruned one, so that a busy machine slows both.
`examples/figures/draw.py` draws `output`.
"""

from __future__ import annotations

import dataclasses
import datetime
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from cifar_resnet import accuracy, load_images, load_network
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from steps import steps
from torch import Tensor, nn

import dfpc_plugin as dfpc
from dfpc_plugin.criteria import CRITERIA
from dfpc_plugin.files import require_writable, write_json
from dfpc_plugin.repairing import synthesise

ANTICIPATING, BARE = "anticipating", "bare"


def main(
    weights: Path,
    images: Path,
    output: Path,
    speedups: tuple[float, ...] = (1.2, 1.35, 1.6, 2.0),
    test_images: int = 1000,
    synthetic_images: int = 256,
    criteria: tuple[str, ...] = ("dfpc", "magnitude", "fpgm", "lamp", "bnscale"),
    round_to: int | None = None,
    forwards: int = 15,
    batch_size: int = 64,
    seed: int = 0,
) -> None:
    """Write accuracy, MACs and latency of every criterion and budget.

    Args:
        weights: The trained network.
        images: The zip of class folders to test on.
        output: JSON file to write.
        speedups: MACs of the unpruned network over MACs of the pruned one.
        test_images: Number of images to test on, evenly over the classes.
        synthetic_images: Number of images that the repair generates.
        criteria: The criteria to compare without a repair, beside DFPC's ranking that anticipates repair, with one.
        round_to: Round the remaining channels to a multiple of this number.
        forwards: Number of timed forwards of every model.
        batch_size: Images per forward.
        seed: Random seed of the synthetic images and of the random criterion.
    """
    require_writable(output)
    console = Console()
    model = load_network(weights)
    pixels, labels = load_images(images, test_images)
    example = pixels[:1]
    made = synthesise(model, example, count=synthetic_images, seed=seed)
    settings = dfpc.RepairSettings("calibrate", made.batches, count=synthetic_images, ridge=0.03, seed=seed)
    protocol = dfpc.LatencySettings(threads=1, batch_size=batch_size, forwards=forwards)
    points: list[dict[str, Any]] = []
    for name in steps((ANTICIPATING, *criteria), "pruning", console):
        repaired = name == ANTICIPATING
        for speedup in speedups:
            torch.manual_seed(seed)
            importance = dfpc.RepairedImportance(settings) if repaired else CRITERIA[name].build()
            result = dfpc.prune(
                model, example, f"macs={1 / speedup}", importance=importance, repair=settings if repaired else None,
                round_to=round_to,
            )  # fmt: skip
            points.append({
                "criterion": name, "repair": "synthetic" if repaired else BARE, "speedup": speedup,
                "label": "DFPC, anticipating repair" if repaired else CRITERIA[name].label,
                "macs": result.after.macs, "parameters": result.after.parameters,
                "top1": 100 * accuracy(result.model, pixels, labels), **timed(model, result.model, example, protocol),
            })  # fmt: skip
    before = {
        "macs": result.before.macs, "parameters": result.before.parameters,
        "top1": 100 * accuracy(model, pixels, labels),
    }  # fmt: skip
    table = Table(title=f"{weights.stem}: {before['top1']:.1f} % before", title_justify="left")
    for column in ("criterion", "repair", "MACs", "top-1", "times faster", "middle half"):
        table.add_column(column, justify="left" if column == "criterion" else "right")
    for point in points:
        low, high = point["times_faster_quartiles"]
        times = f"{point['times_faster']:.2f}", f"{low:.2f} to {high:.2f}"
        table.add_row(
            point["label"], point["repair"], f"{point['macs'] / before['macs']:.3f}", f"{point['top1']:.1f}", *times
        )
    write_json(output, {
        "network": weights.stem, "date": datetime.date.today().isoformat(), "seed": seed, "test_images": len(pixels),
        "synthetic_images": synthetic_images, "round_to": round_to, "forwards": forwards,
        "machine": platform.machine(), "torch": torch.__version__, "latency": dataclasses.asdict(protocol),
        "before": before, "points": points,
    })  # fmt: skip
    console.print(table)


def timed(unpruned: nn.Module, pruned: nn.Module, example: Tensor, protocol: dfpc.LatencySettings) -> dict[str, Any]:
    """Measure two models in turns; return the speed-up, as its median and quartiles, and the latencies."""
    measured = protocol.measure({"unpruned": unpruned, "pruned": pruned}, example)
    ratios = measured["pruned"].ratios_over(measured["unpruned"])
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "times_faster": middle, "times_faster_quartiles": [low, high], "unpruned_ms": 1e3 * measured["unpruned"].median,
        "pruned_ms": 1e3 * measured["pruned"].median,
    }  # fmt: skip


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
