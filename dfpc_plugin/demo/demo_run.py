"""Options of the demo, and its run."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.text import Text
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dfpc_plugin.artifact import save_pruned
from dfpc_plugin.comparing import CompareResult, compare
from dfpc_plugin.criteria import CRITERIA, Criterion, Importance
from dfpc_plugin.demo.network import PREPROCESSING, build_network, example_input, load_digits, load_network
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.files import write_text
from dfpc_plugin.latency import LatencySettings
from dfpc_plugin.plain_data import Checked, Count, Limit, Seed, to_plain, within
from dfpc_plugin.progress import Progress
from dfpc_plugin.pruning import prune
from dfpc_plugin.record import RunRecord
from dfpc_plugin.repairing import Method
from dfpc_plugin.require import require

_EACH_ONCE = Limit("one or more, each once", lambda values: 0 < len(set(values)) == len(values))
_REPAIRS: tuple[Method, ...] = ("none", "merge", "calibrate")
_IMAGES = 128
_TITLE = "A small ResNet on scanned digits, pruned without fine-tuning"


class DemoConfigError(DFPCError, ValueError):
    """An option of the demo has an invalid value."""


@dataclass(frozen=True)
class DemoConfig(Checked, error=DemoConfigError):
    """Options of the demo.

    Attributes:
        output: Directory for the plots, the results and the pruned networks; created if missing.
        budgets: Shares of the unpruned network's MACs to keep, each between 0 and 1.
        criteria: Names of the importance criteria to compare.
        global_ranking: Compare channels across layers. If not, every layer loses the same share, and the criteria only
            choose the channels.
        random_seeds: Number of random seeds that the random criterion is averaged over.
        seed: First random seed.
        threads: Number of CPU threads in latency measurements; everything else uses PyTorch's setting.
        batch_size: Images per forward in latency measurements.
        latency_time: Seconds to measure the latency of each pruned network, and as many for the unpruned one beside it.
    """

    output: Path = Path("dfpc-demo")
    budgets: Annotated[tuple[Annotated[float, within(above=0, below=1)], ...], _EACH_ONCE] = (0.9, 0.8, 0.65)
    criteria: Annotated[tuple[str, ...], _EACH_ONCE] = field(
        default=("dfpc-output", "magnitude", "random"), metadata={"choices": CRITERIA}
    )
    global_ranking: bool = True
    random_seeds: Count = 3
    seed: Seed = 0
    threads: Count = 1
    batch_size: Count = 16
    latency_time: Annotated[float, within(above=0, most=60)] = 0.1

    def __post_init__(self) -> None:
        """Check the options; raises DemoConfigError that names all invalid ones."""
        super().__post_init__()
        for name in self.criteria:
            CRITERIA.find(name, DemoConfigError, setting="criteria")
        if self.output.exists() and not self.output.is_dir():
            raise DemoConfigError(f"output: '{self.output}' is a file; name a directory.")


def run_demo(
    config: DemoConfig | None = None, console: Console | None = None, progress: Progress | bool = True
) -> CompareResult:
    """Prune the demo's network by several criteria, and print and store a comparison.

    Writes only into `config.output`: plots, results, and the networks pruned by the first DFPC criterion. PyTorch's
    random state and number of threads are restored afterwards. The default options take about a minute on two cores.
    `progress` is True for bars in the terminal, or a function called with the current phase and the share that is done.
    Raises MissingDependencyError if scikit-learn or matplotlib is not installed.
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
    return dataclasses.replace(known, build=functools.partial(_by_rank, known))


def _by_rank(criterion: Criterion) -> Importance:
    """Score channels by their rank within the coupling, 0 to 1, so that all couplings lose the same share."""
    importance = criterion.build()

    def ranks(group: Any) -> Tensor | None:
        scores = None if importance is None else importance(group)
        return None if scores is None else scores.argsort().argsort() / len(scores)

    return ranks


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
        record = RunRecord({"name": "A small ResNet on scanned digits"}, preprocessing=to_plain(PREPROCESSING))
        record.add_pruning(pruned.to_json())
        yield save_pruned(
            pruned, directory, model=factory, example_inputs=example_input(), record=record.to_json(), overwrite=True
        )


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
