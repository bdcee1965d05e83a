"""What the demo found out, as plain numbers."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CutResult", "DemoResult", "Figures", "Row", "Spread"]


@dataclass(frozen=True)
class Figures:
    """What was measured of one network.

    Attributes:
        channels: Output channels, summed over the convolutions.
        macs: MACs for one image.
        parameters: Number of parameters.
        accuracy: Share of the test images classified right, with nothing done after the cut.
        accuracy_repaired: The same after `dfpc_plugin.repair` by "merge", which takes no data; for the unpruned network, its
            accuracy.
        accuracy_reestimated: The same, not repaired, after the batch norms' statistics were taken anew on unlabelled images.
        latency_ms: Median milliseconds for one batch.
        latency_iqr_ms: Interquartile range of the same.
        speedup: How many times faster than the unpruned network, measured in turns with it.
    """

    channels: int
    macs: int
    parameters: int
    accuracy: float
    accuracy_repaired: float
    accuracy_reestimated: float
    latency_ms: float
    latency_iqr_ms: float
    speedup: float


@dataclass(frozen=True)
class CutResult:
    """One pruned network.

    Attributes:
        criterion: Name of the criterion.
        label: The same for people.
        budget: Share of the MACs that was asked for.
        seed: Seed of the cut, for a criterion that draws random numbers.
        pruning_ratio: What Torch-Pruning was given to get there.
        widths: Output channels of every convolution.
        figures: What was measured.
    """

    criterion: str
    label: str
    budget: float
    seed: int | None
    pruning_ratio: float
    widths: dict[str, int]
    figures: Figures


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (0 for one value)."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise `values`."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class Row:
    """The cuts of one criterion for one budget, of which there are several only if the criterion is random."""

    label: str
    budget: float
    cuts: tuple[CutResult, ...]

    def spread(self, figure: Callable[[Figures], float]) -> Spread:
        """Summarise one of the figures over the cuts."""
        return Spread.of([figure(cut.figures) for cut in self.cuts])


@dataclass(frozen=True)
class DemoResult:
    """Everything the demo measured.

    Attributes:
        base: Figures of the unpruned network.
        base_widths: Output channels of its convolutions.
        cuts: Every pruned network, in the order of budgets and criteria.
        test_images: Images behind each accuracy.
        batchnorm_images: Unlabelled training images behind each re-estimated accuracy.
        batch_size: Images behind each latency.
        threads: CPU threads behind each latency.
        global_ranking: Whether the criteria also decided how much every layer lost.
        versions: Versions of the packages that matter.
        files: What was written, by purpose.
        seconds: How long it took.
    """

    base: Figures
    base_widths: dict[str, int]
    cuts: tuple[CutResult, ...]
    test_images: int
    batchnorm_images: int
    batch_size: int
    threads: int
    global_ranking: bool
    versions: dict[str, str]
    files: dict[str, str]
    seconds: float

    def rows(self) -> tuple[Row, ...]:
        """Return one row per budget and criterion."""
        grouped: dict[tuple[float, str], list[CutResult]] = {}
        for cut in self.cuts:
            grouped.setdefault((cut.budget, cut.label), []).append(cut)
        return tuple(Row(label, budget, tuple(cuts)) for (budget, label), cuts in grouped.items())

    def leaders(self, budget: float, figure: Callable[[Figures], float]) -> tuple[str, ...]:
        """Return who leads at `budget` in an accuracy: the best mean, and all within one standard error of it."""
        means = {row.label: row.spread(figure).mean for row in self.rows() if row.budget == budget}
        highest = max(means.values())
        error = math.sqrt(highest * (1 - highest) / self.test_images)
        return tuple(label for label, mean in means.items() if mean >= highest - error)

    def to_json(self) -> dict[str, Any]:
        """Return the same as dicts, lists, numbers and strings."""
        content = dataclasses.asdict(self)
        content["cuts"] = list(content["cuts"])
        return content
