"""Run the demo from beginning to end."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dfpc_plugin.demo.artefact import write_network
from dfpc_plugin.demo.compare import BATCHNORM_IMAGES, Advance, Comparison, compare
from dfpc_plugin.demo.config import DemoConfig
from dfpc_plugin.demo.data import load_digits
from dfpc_plugin.demo.network import channel_widths, load_network
from dfpc_plugin.demo.plot import write_plot
from dfpc_plugin.demo.result import DemoResult
from dfpc_plugin.demo.table import print_table
from dfpc_plugin.files import write_json
from dfpc_plugin.require import require

__all__ = ["run_demo"]


def run_demo(config: DemoConfig | None = None, console: Console | None = None) -> DemoResult:
    """Prune the network that ships with this package by several criteria, and show and store how they compare.

    Writes only into `config.output`: the plot, all figures, and the networks of the first DFPC criterion asked for.
    PyTorch's random state and number of threads are as before afterwards.

    Args:
        config: What to do; the defaults take well under a minute on two cores.
        console: Where to print.

    Raises:
        MissingDependencyError: scikit-learn or matplotlib is not installed.
        BudgetError: A criterion cannot reach one of the budgets.
    """
    config, console, start = config or DemoConfig(), console or Console(), time.perf_counter()
    require("matplotlib", "matplotlib", "demo")  # now rather than after half a minute of work
    digits = load_digits()
    model = load_network()
    with torch.random.fork_rng(devices=[]), _progress_bar(console) as advance:
        comparison = compare(model, digits, config, advance)
    base_widths = channel_widths(model)
    result = DemoResult(
        base=comparison.base,
        base_widths=base_widths,
        cuts=comparison.results,
        test_images=len(digits.test_labels),
        batchnorm_images=BATCHNORM_IMAGES,
        batch_size=config.batch_size,
        threads=config.threads,
        global_ranking=config.global_ranking,
        versions={name: version(name) for name in ("torch", "timm", "torch-pruning")},
        files={},
        seconds=0.0,
    )
    result = _write(result, comparison, config.output, start)
    print_table(result, console)
    console.print(_what_next(result), highlight=False)
    return result


def _write(result: DemoResult, comparison: Comparison, directory: Path, start: float) -> DemoResult:
    """Write the plot, DFPC's networks and the numbers; return `result` with what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {f"plot ({kind})": path for kind, path in write_plot(result, directory).items()}
    ours = next((cut.criterion for cut in comparison.results if cut.criterion.startswith("dfpc")), None)
    for contender, cut in zip(comparison.contenders, comparison.results, strict=True):
        if cut.criterion == ours:
            files |= write_network(contender.cut.model, cut, result.base_widths, directory)
    files["results"] = directory / "results.json"
    result = dataclasses.replace(
        result, files={name: str(path) for name, path in files.items()}, seconds=time.perf_counter() - start
    )
    write_json(files["results"], result.to_json())
    return result


def _what_next(result: DemoResult) -> str:
    directory = Path(result.files["results"]).parent
    return (
        f"Written to {directory}: {', '.join(Path(path).name for path in result.files.values())}"
        f" ({result.seconds:.0f} s in all).\n\n"
        "Your own model   importance=DFPCImportance() in any Torch-Pruning pruner\n"
        "Repair           column 'repaired': dfpc_plugin.repair by 'merge', needs no data\n"
        "Documentation    docs/index.md, or mkdocs serve in a clone\n"
        "Other commands   dfpc --help"
    )


@contextlib.contextmanager
def _progress_bar(console: Console) -> Iterator[Advance]:
    """Show one bar per part of the work, and take them away at the end."""
    columns = (TextColumn("{task.description:<8}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {name: progress.add_task(name, total=1.0) for name in ("pruning", "testing", "timing")}
        yield lambda name, share: progress.update(tasks[name], completed=share)
