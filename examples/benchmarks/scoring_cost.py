"""The cost of scoring: BGSC, an ordinary forward + backward, and Torch-Pruning's criteria, side by side.

    python examples/benchmarks/scoring_cost.py                       # the five models of the documentation
    python examples/benchmarks/scoring_cost.py --models "[resnet152, convnext_large, vit_large_patch16_224]" --rounds 3

One thread, batch 1, all parameters requiring gradients. Each round measures everything once, in turn, so that drift of
the machine affects all alike; the table holds medians. Peak memory is the growth of a fresh process's resident set
above the built model.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import timm
import torch
import torch_pruning as tp
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from steps import steps
from torch.utils.benchmark import Timer

from dfpc_plugin import DFPCImportance, bgsc

MODELS = ["resnet50", "mobilenetv3_large_100", "convnext_tiny", "densenet121", "vit_small_patch16_224"]
IN_PROCESS = "--measure-memory"


def forward_backward(model: torch.nn.Module, x: torch.Tensor) -> None:
    model.zero_grad()
    model(x).sum().backward()


def candidates(model: torch.nn.Module, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Everything that is timed, by name."""
    graph = tp.DependencyGraph().build_dependency(model, x, verbose=False)
    groups = list(graph.get_all_groups(ignored_layers=[model.get_classifier()]))

    def over_groups(importance: tp.importance.Importance) -> list[object]:
        return [importance(group) for group in groups]

    def dfpc() -> None:
        vars(graph).pop("_dfpc_scores", None)  # clears the cached scores, so that each run computes them
        over_groups(DFPCImportance())

    def taylor() -> None:
        forward_backward(model, x)
        over_groups(tp.importance.GroupTaylorImportance())

    return {
        "forward + backward": lambda: forward_backward(model, x),
        "forward": lambda: model(x),
        "bgsc": lambda: bgsc(model, x),
        "DFPC, all groups": dfpc,
        "magnitude, all groups": lambda: over_groups(tp.importance.GroupMagnitudeImportance()),
        "Taylor, all groups": taylor,
    }


def build(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A model in evaluation mode and an image of 224 by 224."""
    return timm.create_model(name).eval(), torch.randn(1, 3, 224, 224)


def peak_memory(name: str, what: str) -> float:
    """Growth of the resident set in MiB, in a separate process."""
    command = [sys.executable, __file__, IN_PROCESS, name, what]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(name: str, what: str) -> None:
    """Print the growth of the resident set above the built model."""
    torch.set_num_threads(1)
    model, x = build(name)
    bgsc(torch.nn.Linear(2, 2), torch.ones(1, 2))  # leave out the costs of imports and first calls
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark of the resident set
    before = high_water_mark()
    forward_backward(model, x) if what == "forward + backward" else bgsc(model, x)
    print(high_water_mark() - before)


def high_water_mark() -> float:
    """Largest resident set so far in MiB (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(models: list[str] = MODELS, rounds: int = 7) -> None:
    """Measure `models` over `rounds` interleaved rounds and print a table per model."""
    warnings.filterwarnings("ignore", message="Unwrapped parameters")
    torch.set_num_threads(1)
    console = Console()
    for name in models:
        runs = candidates(*build(name))
        timers = {what: Timer("run()", globals={"run": run}) for what, run in runs.items()}
        seconds: dict[str, list[float]] = {what: [] for what in timers}
        for _ in steps(range(rounds), name, console):
            for what, timer in timers.items():
                seconds[what].append(timer.timeit(1).median)
        base = median(seconds["forward + backward"])
        table = Table(title=f"{name}, 1 x 3 x 224 x 224, one thread, median of {rounds}", title_justify="left")
        for column in ("", "ms", "of forward + backward", "peak MiB", "of forward + backward"):
            table.add_column(column, justify="right" if column else "left")
        memory = {what: peak_memory(name, what) for what in ("forward + backward", "bgsc")}
        for what, values in seconds.items():
            row = [what, f"{1e3 * median(values):.0f}", f"{median(values) / base:.2f}"]
            if what in memory:
                row += [f"{memory[what]:.0f}", f"{memory[what] / memory['forward + backward']:.2f}"]
            table.add_row(*row)
        console.print(table)


if __name__ == "__main__":
    if IN_PROCESS in sys.argv:
        measure_memory(*sys.argv[2:])
    else:
        auto_cli(main, as_positional=False)
