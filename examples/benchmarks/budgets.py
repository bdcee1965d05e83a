"""How exactly `prune` meets budgets of MACs and parameters, on models of different kinds.

    python examples/benchmarks/budgets.py
    python examples/benchmarks/budgets.py --models "[resnet50, vit_small_patch16_224]" --shares "[0.8, 0.6]"

Weights are random, as budgets do not depend on them. Results are counted by PyTorch's own counter on the pruned model,
independently of `prune`.
"""

from __future__ import annotations

import time

import timm
import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from steps import steps
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dfpc_plugin as dfpc

MODELS = [
    "resnet50",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "convnext_tiny",
    "densenet121",
    "regnety_008",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilevit_s",
    "own",
]


class Own(nn.Module):
    """A module of the user's own: two concatenated branches, a gate, and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 64, 64)}
        self.stem = nn.Conv2d(3, 64, 3, 2, 1)
        self.left, self.right = nn.Conv2d(64, 96, 3, padding=1), nn.Conv2d(64, 32, 1)
        self.gate, self.join = nn.Linear(128, 128), nn.Conv2d(128, 64, 1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        both = torch.cat([self.left(x), self.right(x)], 1).relu()
        both = both * self.gate(both.mean((2, 3))).sigmoid()[..., None, None]
        return self.head((x + self.join(both)).mean((2, 3)))


def count(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """MACs by PyTorch's counter, and parameters."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(x)
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in model.parameters())


def main(
    models: list[str] = MODELS, shares: tuple[float, ...] = (0.9, 0.7, 0.5, 0.3), budget: str = "macs", seed: int = 0
) -> None:
    """Prune every model to every share of `budget` (macs or params), and print the results."""
    torch.manual_seed(seed)
    table = Table(title=f"Share of {budget} left, as counted on the pruned model (seconds)", title_justify="left")
    for column in ("model", *(f"{share:g}" for share in shares)):
        table.add_column(column)
    console, worst = Console(), 0.0
    for name in steps(models, "pruning", console):
        model = (Own() if name == "own" else timm.create_model(name)).eval()
        x = torch.randn(1, *model.pretrained_cfg["input_size"])
        macs, parameters = count(model, x)
        cells = []
        for share in shares:
            start = time.perf_counter()
            pruned = dfpc.prune(model, x, f"{budget}={share}").model
            seconds = time.perf_counter() - start
            left = count(pruned, x)
            reached = left[0] / macs if budget == "macs" else left[1] / parameters
            worst = max(worst, abs(reached / share - 1))
            cells.append(f"{reached:.4f} ({seconds:.1f} s)")
        table.add_row(name, *cells)
    console.print(table)
    console.print(f"Largest distance from a budget: {worst:.2%} of it.")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
