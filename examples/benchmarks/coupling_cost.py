"""The cost of finding couplings and building a pruner, beside Torch-Pruning's own tracing.

    python examples/benchmarks/coupling_cost.py
    python examples/benchmarks/coupling_cost.py --models "[resnet152, densenet201]" --rounds 3 --limit 60

One thread, batch 1, the model's own input size. Each round measures everything once, in turn; the table holds medians.
Torch-Pruning is skipped on models for which it takes more than `limit` seconds, tested in a separate process.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import timm
import torch
import torch_pruning as tp
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from steps import steps
from torch.utils.benchmark import Timer

from dfpc_plugin import DFPCPruner, find_couplings

MODELS = ["resnet50", "efficientnet_b0", "swin_tiny_patch4_window7_224", "resnet152", "densenet201"]


def build(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A model in evaluation mode and one image of its size."""
    model = timm.create_model(name).eval()
    return model, torch.randn(1, *model.pretrained_cfg["input_size"])


def torch_prunings(model: torch.nn.Module, x: torch.Tensor) -> object:
    """Torch-Pruning's own pruner, which traces the model."""
    ignored = [model.get_classifier()]  # type: ignore[operator]
    heads: dict[Any, Any] = {}
    groups: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    return tp.pruner.BasePruner(
        model,
        x,
        tp.importance.GroupMagnitudeImportance(),
        ignored_layers=ignored,
        num_heads=heads,
        in_channel_groups=groups[0],
        out_channel_groups=groups[1],
    )


def finishes(name: str, limit: float) -> bool:
    """Whether Torch-Pruning builds its pruner in time."""
    process = multiprocessing.get_context("spawn").Process(target=_try, args=(name,), daemon=True)
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        return False
    return process.exitcode == 0


def _try(name: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch_prunings(*build(name))


def main(models: list[str] = MODELS, rounds: int = 5, limit: float = 120.0) -> None:
    """Measure `models` over `rounds` interleaved rounds and print a table per model."""
    warnings.filterwarnings("ignore", message="Unwrapped parameters")
    torch.set_num_threads(1)
    console = Console()
    for name in models:
        model, x = build(name)
        importance = tp.importance.GroupMagnitudeImportance()

        def forward(model: torch.nn.Module = model, x: torch.Tensor = x) -> object:
            with torch.no_grad():
                return model(x)

        runs: dict[str, Callable[[], object]] = {
            "forward": forward,
            "find_couplings": lambda: find_couplings(model, x),  # noqa: B023
            "DFPCPruner": lambda: DFPCPruner(model, x, importance),  # noqa: B023
        }
        if finishes(name, limit):
            runs["Torch-Pruning's BasePruner"] = lambda: torch_prunings(model, x)  # noqa: B023
        seconds: dict[str, list[float]] = {what: [] for what in runs}
        for _ in steps(range(rounds), name, console):
            for what, run in runs.items():
                seconds[what].append(Timer("run()", globals={"run": run}).timeit(1).median)
        base = median(seconds["forward"])
        table = Table(title=f"{name}, one thread, median of {rounds}", title_justify="left")
        for column in ("", "ms", "forwards"):
            table.add_column(column, justify="right" if column else "left")
        for what, values in seconds.items():
            table.add_row(what, f"{1e3 * median(values):.0f}", f"{median(values) / base:.1f}")
        if "Torch-Pruning's BasePruner" not in runs:
            table.add_row("Torch-Pruning's BasePruner", f"fails, or takes more than {limit:.0f} s", "")
        console.print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
