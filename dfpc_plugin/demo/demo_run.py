"""Run the demo."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dfpc_plugin.artifact import save_pruned
from dfpc_plugin.comparing import CompareResult, compare
from dfpc_plugin.criteria import CRITERIA, Criterion, Importance
from dfpc_plugin.demo.config import DemoConfig
from dfpc_plugin.demo.data import load_digits
from dfpc_plugin.demo.network import build_network, example_input, load_network
from dfpc_plugin.files import write_text
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.progress import Progress
from dfpc_plugin.pruning import prune
from dfpc_plugin.repairing import Method
from dfpc_plugin.require import require

_REPAIRS: tuple[Method, ...] = ("none", "merge", "calibrate")
_IMAGES = 128
_TITLE = "A small ResNet on scanned digits, pruned without fine-tuning"


def run_demo(
    config: DemoConfig | None = None, console: Console | None = None, progress: Progress | bool = True
) -> CompareResult:
    """Prune the demo's network by several criteria, and print and store a comparison.

    Writes only into `config.output`: plots, results, and the networks pruned by the first DFPC criterion. PyTorch's
    random state and number of threads are restored afterwards.

    Args:
        config: The options; the defaults take about a minute on two cores.
        console: Where to print.
        progress: True for bars in the terminal, or a function called with the current phase and the share that is done.

    Raises:
        MissingDependencyError: scikit-learn or matplotlib is not installed.
    """
    config, console, start = config or DemoConfig(), console or Console(), time.perf_counter()
    require("matplotlib", "matplotlib", "demo")  # fail before half a minute of work
    digits = load_digits()
    model = load_network()
    chosen = [_criterion(name, config.global_ranking) for name in config.criteria]
    run = functools.partial(
        compare,
        model,
        example_input(),
        budgets=sorted(config.budgets, reverse=True),
        repairs=_REPAIRS,
        data=TensorDataset(digits.test_images, digits.test_labels),
        images=digits.train_images[:_IMAGES],
        latency=LatencySettings(config.threads, config.batch_size, config.latency_time),
        progress=progress,
    )
    seeds = range(config.seed, config.seed + config.random_seeds)
    results = [
        run(criteria=[c for c in chosen if c.random == random], seeds=seeds if random else config.seed)
        for random in (False, True)
        if any(c.random == random for c in chosen)
    ]
    result = functools.reduce(CompareResult.__add__, results)
    written = [*_write(result, config.output), *_saved(model, chosen, config)]
    console.print(Text(_TITLE, style="bold"))
    console.print(Text(result.text(console.width)), soft_wrap=True)
    console.print(_what_next(written, config, time.perf_counter() - start), highlight=False)
    return result


def _criterion(name: str, global_ranking: bool) -> Criterion:
    """A criterion that compares channels across layers, or within each coupling."""
    known = CRITERIA[name]
    if global_ranking:
        return known
    return dataclasses.replace(known, build=lambda: _Ranks(known.build()))


class _Ranks:
    """Scores channels by their rank within the coupling, so that all couplings lose the same share."""

    def __init__(self, importance: Importance | None) -> None:
        self._importance = importance

    def __call__(self, group: Any) -> Tensor | None:
        """Return ranks between 0 and 1, one per channel."""
        scores = None if self._importance is None else self._importance(group)
        return None if scores is None else scores.argsort().argsort() / len(scores)


def _write(result: CompareResult, directory: Path) -> Iterator[Path]:
    """Write plots and results; yield the files."""
    directory.mkdir(parents=True, exist_ok=True)
    for kind in ("svg", "png"):
        result.plot(directory / f"accuracy.{kind}")
        yield directory / f"accuracy.{kind}"
    yield write_text(directory / "results.jsonl", result.to_json_lines())
    yield write_text(directory / "results.csv", result.to_csv())


def _saved(model: nn.Module, chosen: list[Criterion], config: DemoConfig) -> Iterator[Path]:
    """Save the networks pruned by the first of DFPC's criteria, without repair; yield the directories."""
    ours = next((criterion for criterion in chosen if criterion.name.startswith("dfpc")), None)
    if ours is None:
        return
    factory = f"{build_network.__module__}:{build_network.__name__}"
    for budget in sorted(config.budgets, reverse=True):
        pruned = prune(model, example_input(), f"macs={budget}", importance=ours.build(), repair="none")
        directory = config.output / f"{ours.name}-{budget:g}"
        yield save_pruned(pruned, directory, model=factory, example_inputs=example_input(), overwrite=True)


def _what_next(written: list[Path], config: DemoConfig, seconds: float) -> str:
    return (
        f"Latency: batches of {config.batch_size} on {config.threads} CPU thread(s), beside the unpruned network. "
        f"merge takes no data, calibrate {_IMAGES} images without labels.\n"
        f"Written to {config.output}: {', '.join(path.name for path in written)} ({seconds:.0f} s in all).\n\n"
        "Your own model   dfpc compare MODEL, or dfpc_plugin.compare(model, example_inputs)\n"
        "Repair           columns 'merge' and 'calibrate': dfpc prune MODEL --repair.method merge\n"
        "Documentation    docs/index.md, or mkdocs serve in a clone\n"
        "Other commands   dfpc --help"
    )
