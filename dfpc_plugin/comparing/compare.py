"""`compare`: every criterion at every budget with every repair, on copies of one model."""

from __future__ import annotations

import inspect
import math
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dfpc_plugin import __version__
from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.comparing.cells import (
    METRICS,
    Cell,
    CellResult,
    CellStore,
    CompareError,
    FileStore,
    Unpruned,
    reserved,
)
from dfpc_plugin.comparing.digest import digest_of, digest_of_images
from dfpc_plugin.comparing.plan import Budget, Plan, is_own, own_digest, own_label, with_gradients
from dfpc_plugin.comparing.result import CompareResult
from dfpc_plugin.comparing.scorers import RelativeError, Scorer, accuracy_scorer, error_scorer, own_scorer
from dfpc_plugin.cost import CostModel
from dfpc_plugin.couplings.find import map_couplings
from dfpc_plugin.criteria import AUTO, Criterion
from dfpc_plugin.data import fault_of_dataset
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.generators import generators_kept, seed_torch
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.pruning import prune
from dfpc_plugin.repairing import METHODS, Method, RepairSettings
from dfpc_plugin.repairing.inputs import DEFAULT_COUNT, collected
from dfpc_plugin.repairing.settings import Images
from dfpc_plugin.tracing.tree import tensors
from dfpc_plugin.wrappers import plain_model

_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(prune).parameters.items()}


@checks_arguments
def compare(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    criteria: Any = (AUTO, "dfpc", "magnitude", "random"),
    budgets: Budget | Sequence[Budget] = (0.9, 0.7, 0.5),
    repairs: Method | Sequence[Method] = ("none", "merge"),
    seeds: int | Sequence[int] = 0,
    data: Any = None,
    score: Callable[[nn.Module], Any] | None = None,
    images: Images | None = None,
    save_to: str | Path | CellStore | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | bool | None = None,
    **options: Any,
) -> CompareResult:
    """Prune copies of a model by every criterion to every budget, repair them in every way, and measure what comes out.

    Each cell is what `prune` does after `torch.manual_seed(seed)` with `importance` of that criterion and
    `repair=RepairSettings(method, seed=seed)`. A cell that cannot be done, such as a budget that is out of reach, has its
    reason in place of figures. Where nothing is random, only the first seed is used.

    The figure of a cell is the accuracy on `data`, or what `score` returns, or, where neither is given, the squared error of the
    model's outputs over their variance: on `images`, or else on noise. `CompareResult.source` says which.

    Args:
        model: The model, which stays as it is.
        example_inputs: What it is called with.
        criteria: Names of criteria: "auto" for what `prune` chooses by itself, those of recipes, "taylor" for
            Torch-Pruning's on images. Or your own, as for `prune(importance=...)`: objects, classes or functions that score
            groups, where to import one from ("package.module:name"), or a `Criterion`, which also has a name and a label.
        budgets: Targets such as "macs=0.5" or "params=0.3"; a number is a share of the MACs to keep.
        repairs: Repair methods; "none" leaves the cut as it is.
        seeds: Whole numbers, 0 or more.
        data: A labelled data set, such as `open_images` returns, to measure accuracy on.
        score: From a model in evaluation mode to a number, more is better; instead of `data`.
        images: Unlabelled inputs for the repair "calibrate" and the criterion "taylor". Without `data` and `score`, the error is
            measured on them, too: on the quarter that nothing was fitted to, if anything is fitted.
        save_to: A file for the cells, JSON lines, each stored as soon as it is finished; a later call with the same model
            and data goes on where an earlier one was stopped. Cells that failed are tried again, and so are those of a
            criterion of your own whose code or settings have changed. Or a `CellStore` that keeps them elsewhere.
        batch_size: Images of `data` at a time.
        workers: Processes that read images of `data`.
        progress: As for `prune`.
        **options: Further arguments of `prune`, the same for every cell, such as `ignored_layers` or `latency`.

    Raises:
        CompareError: The comparison makes no sense, or `save_to` holds another one.
        TargetError: A budget makes no sense.
        DFPCError: As `find_couplings` and `evaluate_model` raise.
    """
    plan = Plan(criteria, budgets, repairs, seeds, images is not None, options)
    if data is not None and score is not None:
        raise CompareError("data and score both say how models are scored; give one of them.")
    fault = None if data is None or isinstance(data, DataLoader) else fault_of_dataset(data)
    if fault is not None:
        raise CompareError(f"data is {fault}.")
    save_to = Path(save_to) if isinstance(save_to, str) else save_to
    path = save_to if isinstance(save_to, Path) else None
    with torch.inference_mode(False), generators_kept(), shown(progress) as tell, reserved(path):
        scorer = None if score is None else own_scorer(score)
        if data is not None:
            scorer = accuracy_scorer(data, batch_size, workers, tell)
        return _Run(plain_model(model), as_inputs(example_inputs), plan, scorer, images, tell).result(save_to)


class _Run:
    """What all cells have in common."""

    def __init__(
        self,
        original: nn.Module,
        inputs: ExampleInputs,
        plan: Plan,
        scorer: Scorer | None,
        images: Images | None,
        progress: Progress | None,
    ) -> None:
        """Find the couplings, and score by the error of the outputs if there is no other scorer."""
        self.original, self.inputs, self.plan, self.progress = original, inputs, plan, progress
        self.images = list(images) if isinstance(images, Iterator) else images  # which every cell needs
        self.images_digest = "" if self.images is None else digest_of_images(self.images)
        self.couplings = map_couplings(original, inputs, plan.options.get("forward_fn"))
        self.scorer = scorer or replace(self._by_the_outputs(), digest=self.images_digest)

    def _by_the_outputs(self) -> Scorer:
        """Score by the error of the outputs, on images that nothing is fitted to."""
        common, forward_fn = (self.original, self.couplings), self.plan.options.get("forward_fn")
        if self.images is None:
            measure = RelativeError.on_noise(*common, self.inputs, forward_fn)
            return error_scorer(measure, measure.source)
        given = collected(self.images, DEFAULT_COUNT, self.original, 0, self.inputs)
        if not self.plan.fitting:
            measure = RelativeError.on_images(*common, given, forward_fn)
            return error_scorer(measure, measure.source)
        self.images = given.fitted.parts
        measure = RelativeError.on_images(*common, given.unseen, forward_fn)
        return error_scorer(measure, f"{measure.source}, to which nothing was fitted")

    def result(self, save_to: Path | CellStore | None) -> CompareResult:
        """Fill the store with what is not in it yet."""
        experiment = _experiment(self.original, self.inputs, self.scorer, self.plan.options)
        store = FileStore(save_to, experiment) if isinstance(save_to, Path) else save_to or CellStore(experiment)
        if store.unpruned is None:
            full = CostModel(self.couplings.channels).full
            store.begin(Unpruned(full.macs, full.parameters, *self.scorer.of(self.original, {})))
        cells = self.plan.cells()
        own = {name: own_digest(criterion) for name, criterion in self.plan.criteria.items()}
        digests = {cell: own[cell.criterion] + self.images_digest * self.takes_images(cell) for cell in cells}
        finished = {
            cell for cell, digest in digests.items()
            if (known := store.known.get(cell)) and not known.error and known.digest == digest
        }  # fmt: skip
        with Phases(self.progress)("comparing") as tell:
            for number, cell in enumerate(cells, 1):
                if cell not in finished:
                    criterion = self.plan.criteria[cell.criterion]
                    found = self.of_cell(cell, criterion)
                    store.add(replace(found, label=own_label(criterion), digest=digests[cell]))
                tell(number / len(cells))
        assert store.unpruned is not None
        results = tuple(store.known[cell] for cell in cells)
        value, metric = store.unpruned.value, self.scorer.metric
        if metric is METRICS["score"] and len(results) > 1 and all(own.value == value for own in results):
            warnings.warn(
                f"score returned {value:.4g} for the unpruned model and for all {len(results)} pruned ones. It has to score the model "
                f"that it is called with: score=lambda model: accuracy(model).",
                stacklevel=4,
            )
        return CompareResult(
            self.scorer.metric, self.scorer.source, store.unpruned, results, store.experiment, len(finished)
        )

    def takes_images(self, cell: Cell) -> bool:
        """Whether the criterion or the repair of a cell looks at the user's images."""
        return METHODS[cell.repair].images == "given" or self.plan.criteria[cell.criterion].gradients

    def of_cell(self, cell: Cell, criterion: Criterion) -> CellResult:
        """Prune, repair and measure; a failure that this library explains is a result, too."""
        seed_torch(cell.seed)
        takes_images = METHODS[cell.repair].images == "given"
        repair = RepairSettings(cell.repair, self.images if takes_images else None, seed=cell.seed)
        common = {"repair": repair, "progress": self.progress, **self.plan.options}
        start = time.perf_counter()
        try:
            model = self.original
            if criterion.gradients:
                model = with_gradients(model, self.images, self.inputs)
            found = prune(model, self.inputs, cell.budget, importance=criterion.build(), **common)
            seconds = time.perf_counter() - start
            value, error = self.scorer.of(found.model, found.removed)
        except DFPCError as failure:
            return CellResult(cell, error=str(failure))
        except Exception as failure:  # the user's own criterion is anybody's code
            if not is_own(criterion):
                raise
            place = traceback.extract_tb(failure.__traceback__)[-1]
            told = f"{type(failure).__name__}: {failure} ({place.filename}, line {place.lineno})"
            return CellResult(cell, error=told)
        if not math.isfinite(value):
            return CellResult(cell, error=f"The pruned model's {self.scorer.metric.name} is {value}.")
        macs, params = found.after.macs / found.before.macs, found.after.parameters / found.before.parameters
        return CellResult(cell, value, error, macs, params, found.speedup, round(seconds, 2))


def _experiment(original: nn.Module, inputs: ExampleInputs, scorer: Scorer, options: dict[str, Any]) -> dict[str, Any]:
    """What cells must have in common to be in one table."""
    with exclusive(original):
        weights = digest_of([*original.named_parameters(), *original.named_buffers()])
    return {
        "model": f"{type(original).__name__} {weights}",
        "inputs": " and ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in tensors(inputs)),
        "metric": scorer.metric.name,
        "source": scorer.source,
        "data": scorer.digest,
        "versions": f"dfpc_plugin {__version__}, torch_pruning {version('torch-pruning')}",
        "options": {
            name: re.sub(r" at 0x\w+", "", repr(value))
            for name, value in sorted(options.items())
            if value != _DEFAULTS.get(name)  # what is not given is the same as what is given as it is by default
        },
    }
