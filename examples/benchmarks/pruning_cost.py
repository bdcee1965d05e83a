"""The cost of `prune` to half the MACs, by phase, beside Torch-Pruning's magnitude pruner.

    python examples/benchmarks/pruning_cost.py
    python examples/benchmarks/pruning_cost.py --models "[resnet50]" --rounds 5 --threads 1

Torch-Pruning has no budgets, so its pruner is run several times to find a ratio that halves the MACs. Both are printed:
the whole search, which is the cost of reaching the budget, and a single run at the ratio found.
"""

from __future__ import annotations

import copy
import time
import warnings
from statistics import median
from typing import Any

import timm
import torch
import torch_pruning as tp
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from steps import steps
from torch.utils.flop_counter import FlopCounterMode

import dfpc_plugin as dfpc

MODELS = ["resnet50", "resnet152", "convnext_base"]


def macs(model: torch.nn.Module, x: torch.Tensor) -> int:
    """MACs by PyTorch's counter, on a copy on the meta device."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy.deepcopy(model).to("meta")(x.to("meta"))
    return counter.get_total_flops() // 2


def magnitude(model: Any, x: torch.Tensor, ratio: float) -> torch.nn.Module:
    """Prune a copy with Torch-Pruning's own pruner and graph."""
    model = copy.deepcopy(model)
    pruner = tp.pruner.BasePruner(
        model,
        x,
        tp.importance.GroupMagnitudeImportance(),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[model.get_classifier()],
        num_heads={},
        in_channel_groups={},
        out_channel_groups={},
    )
    pruner.step()
    return model


def ratio_for_half(model: Any, x: torch.Tensor) -> float:
    """The ratio at which Torch-Pruning's pruner halves the MACs, to a hundredth."""
    full, low, high = macs(model, x), 0.0, 0.9
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if macs(magnitude(model, x, middle), x) < full / 2 else (middle, high)
    return high


def main(models: list[str] = MODELS, rounds: int = 3, threads: int = 2, target: str = "macs=0.5") -> None:
    """Time both over interleaved rounds, and print medians."""
    warnings.filterwarnings("ignore", message="Unwrapped parameters")
    torch.set_num_threads(threads)
    console = Console()
    table = Table(title=f"Seconds to half the MACs, {threads} threads, median of {rounds}", title_justify="left")
    for column in ("model", "prune", "Torch-Pruning", "  at a known ratio", "where the time of prune goes"):
        table.add_column(column)
    for name in models:
        model = timm.create_model(name).eval()
        x = torch.randn(1, *model.pretrained_cfg["input_size"])
        with console.status(f"{name}: finding Torch-Pruning's ratio"):
            start = time.perf_counter()
            ratio = ratio_for_half(model, x)
            search = time.perf_counter() - start
        ours: list[float] = []
        theirs: list[float] = []
        for _ in steps(range(rounds), name, console):
            start = time.perf_counter()
            result = dfpc.prune(model, x, target)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            magnitude(model, x, ratio)
            theirs.append(time.perf_counter() - start)
        phases = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in result.seconds.items())
        known = f"{median(theirs):.2f} ({ratio:.2f})"
        table.add_row(name, f"{median(ours):.2f}", f"{search:.2f}", known, phases)
    console.print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
