"""Prune the demo's network by every criterion to every budget, and measure what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from dfpc_plugin.criteria import CRITERIA, Criterion
from dfpc_plugin.demo.config import DemoConfig
from dfpc_plugin.demo.data import Digits
from dfpc_plugin.demo.measure import accuracy, count_macs, count_parameters, with_reestimated_batchnorm
from dfpc_plugin.demo.network import channel_widths, example_input
from dfpc_plugin.demo.result import CutResult, Figures
from dfpc_plugin.demo.search import Cut, CutSearch
from dfpc_plugin.latency import Latency, measure_latency
from dfpc_plugin.repairing import repair

__all__ = ["BATCHNORM_IMAGES", "Comparison", "Contender", "compare", "find_cuts"]

BATCHNORM_IMAGES = 256
_BASE = "unpruned"
Advance = Callable[[str, float], None]
"""Told what is being done and the share of that part that is done, 0 to 1."""


@dataclass(frozen=True)
class Contender:
    """A pruned network and how it came about; `seed` is None unless the criterion is random."""

    criterion: Criterion
    budget: float
    seed: int | None
    cut: Cut

    @property
    def key(self) -> str:
        """A name that no other contender has."""
        return f"{self.criterion.name} {self.budget} {self.seed}"


@dataclass(frozen=True)
class Comparison:
    """The contenders with their results, and the unpruned network's figures."""

    base: Figures
    contenders: tuple[Contender, ...]
    results: tuple[CutResult, ...]


def compare(model: nn.Module, digits: Digits, config: DemoConfig, advance: Advance) -> Comparison:
    """Prune copies of `model` as `config` says and measure them: cost, accuracy, and latency in turns."""
    contenders = tuple(find_cuts(model, config, advance))
    models = {_BASE: model, **{contender.key: contender.cut.model for contender in contenders}}
    accuracies = {}
    for index, (key, network) in enumerate(models.items()):
        accuracies[key] = _accuracies(network, model, digits)
        advance("testing", (index + 1) / len(models))
    latencies = measure_latency(
        models,
        example_input(config.batch_size),
        threads=config.threads,
        min_run_time=config.latency_time,
        progress=lambda share: advance("timing", share),
    )
    figures = {
        key: _figures(network, accuracies[key], latencies[key], latencies[_BASE]) for key, network in models.items()
    }
    results = tuple(
        CutResult(
            criterion=contender.criterion.name,
            label=contender.criterion.label,
            budget=contender.budget,
            seed=contender.seed,
            pruning_ratio=contender.cut.ratio,
            widths=channel_widths(contender.cut.model),
            figures=figures[contender.key],
        )
        for contender in contenders
    )
    return Comparison(figures[_BASE], contenders, results)


def find_cuts(model: nn.Module, config: DemoConfig, advance: Advance) -> Iterator[Contender]:
    """Prune copies of `model` by every criterion, as often as it takes to meet every budget."""
    searches = [
        (criterion, seed, _search(model, criterion, seed, config))
        for criterion in (CRITERIA[name] for name in config.criteria)
        for seed in _seeds(criterion, config)
    ]
    done, total = 0, len(searches) * len(config.budgets)
    for budget in sorted(config.budgets, reverse=True):
        for criterion, seed, search in searches:
            yield Contender(criterion, budget, seed, search.within(budget))
            done += 1
            advance("pruning", done / total)


def _search(model: nn.Module, criterion: Criterion, seed: int | None, config: DemoConfig) -> CutSearch:
    return CutSearch(
        model, example_input(), criterion.build(), ("fc",), global_ranking=config.global_ranking, seed=seed or 0
    )


def _seeds(criterion: Criterion, config: DemoConfig) -> list[int | None]:
    if not criterion.random:
        return [None]
    return list(range(config.seed, config.seed + config.random_seeds))


def _accuracies(model: nn.Module, unpruned: nn.Module, digits: Digits) -> tuple[float, float, float]:
    """Return the accuracy as it is, repaired without data, and with batch norm statistics of unlabelled images."""
    repaired = model if model is unpruned else repair(model, unpruned, example_input(), "merge").model
    reestimated = with_reestimated_batchnorm(model, digits.train_images[:BATCHNORM_IMAGES])
    return (
        accuracy(model, digits.test_images, digits.test_labels),
        accuracy(repaired, digits.test_images, digits.test_labels),
        accuracy(reestimated, digits.test_images, digits.test_labels),
    )


def _figures(model: nn.Module, accuracies: tuple[float, float, float], latency: Latency, base: Latency) -> Figures:
    bare, repaired, reestimated = accuracies
    return Figures(
        channels=sum(channel_widths(model).values()),
        macs=count_macs(model, example_input()),
        parameters=count_parameters(model),
        accuracy=bare,
        accuracy_repaired=repaired,
        accuracy_reestimated=reestimated,
        latency_ms=1000 * latency.median,
        latency_iqr_ms=1000 * latency.iqr,
        speedup=latency.speedup_over(base),
    )
