"""`compare`: every criterion at every budget with every repair, on copies of one model."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.comparing.cells import Cell, CellResult, CellStore, CompareError, FileStore, Unpruned, reserved
from dfpc_plugin.comparing.plan import Budget, Plan, own_label, with_gradients
from dfpc_plugin.comparing.result import CompareResult
from dfpc_plugin.comparing.scorers import AccuracyScorer, ErrorScorer, OwnScorer, RelativeError, Scorer
from dfpc_plugin.cost import CostModel
from dfpc_plugin.couplings.find import CouplingMap, map_couplings
from dfpc_plugin.criteria import AUTO, Criterion
from dfpc_plugin.data import fault_of_dataset
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.generators import generators_kept, seed_torch
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.progress import Progress, shown
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
    criteria: str | Criterion | Sequence[str | Criterion] = (AUTO, "dfpc", "magnitude", "random"),
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
            Torch-Pruning's on images; or `Criterion` objects of your own.
        budgets: Targets such as "macs=0.5" or "params=0.3"; a number is a share of the MACs to keep.
        repairs: Repair methods; "none" leaves the cut as it is.
        seeds: Whole numbers, 0 or more.
        data: A labelled data set, such as `open_images` returns, to measure accuracy on.
        score: From a model in evaluation mode to a number, more is better; instead of `data`.
        images: Unlabelled inputs for the repair "calibrate" and the criterion "taylor". Without `data` and `score`, the error is
            measured on them, too: on the quarter that nothing was fitted to, if anything is fitted.
        save_to: A file for the cells, JSON lines, each stored as soon as it is finished; a later call with the same model
            and data goes on where an earlier one was stopped. Or a `CellStore` that keeps them elsewhere.
        batch_size: Images of `data` at a time.
        workers: Processes that read images of `data`.
        progress: As for `prune`.
        **options: Further arguments of `prune`, the same for every cell, such as `ignored_layers` or `latency`.

    Raises:
        CompareError: The comparison makes no sense, or `save_to` holds another one.
        TargetError: A budget makes no sense.
        DFPCError: As `find_couplings` and `evaluate_model` raise.
    """
    plan = Plan.of(criteria, budgets, repairs, seeds, images is not None, options)
    if data is not None and score is not None:
        raise CompareError("data and score both say how models are scored; give one of them.")
    fault = None if data is None or isinstance(data, DataLoader) else fault_of_dataset(data)
    if fault is not None:
        raise CompareError(f"data is {fault}.")
    save_to = Path(save_to) if isinstance(save_to, str) else save_to
    path = save_to if isinstance(save_to, Path) else None
    with torch.inference_mode(False), generators_kept(), shown(progress) as tell, reserved(path):
        given = OwnScorer(score) if score is not None else None
        scorer = given if data is None else AccuracyScorer(data, batch_size, workers, tell)
        return _Run.of(plain_model(model), as_inputs(example_inputs), plan, scorer, images, tell).result(save_to)


@dataclass(frozen=True)
class _Run:
    """What all cells have in common."""

    original: nn.Module
    inputs: ExampleInputs
    couplings: CouplingMap
    plan: Plan
    scorer: Scorer
    images: Images | None
    progress: Progress | None

    @classmethod
    def of(
        cls,
        original: nn.Module,
        inputs: ExampleInputs,
        plan: Plan,
        scorer: Scorer | None,
        images: Images | None,
        progress: Progress | None,
    ) -> _Run:
        """Find the couplings, and score by the error of the outputs if there is no other scorer."""
        images = list(images) if isinstance(images, Iterator) else images  # which every cell needs
        couplings = map_couplings(original, inputs, plan.options.get("forward_fn"))
        if scorer is None:
            scorer, images = _error_scorer(original, couplings, inputs, images, plan)
        return cls(original, inputs, couplings, plan, scorer, images, progress)

    def result(self, save_to: Path | CellStore | None) -> CompareResult:
        """Fill the store with what is not in it yet."""
        experiment = _experiment(self.original, self.inputs, self.scorer, self.plan.options)
        own = FileStore(save_to, experiment) if isinstance(save_to, Path) else CellStore(experiment)
        store = save_to if isinstance(save_to, CellStore) else own
        if store.unpruned is None:
            full = CostModel(self.couplings.channels).full
            store.begin(Unpruned(full.macs, full.parameters, *self.scorer.of(self.original, {})))
        tell = self.progress or (lambda name, share: None)
        cells = self.plan.cells()
        for number, cell in enumerate(cells):
            tell("comparing", number / len(cells))
            if cell not in store.known:
                criterion = self.plan.criteria[cell.criterion]
                store.add(replace(self.of_cell(cell, criterion), label=own_label(criterion)))
        tell("comparing", 1.0)
        assert store.unpruned is not None
        found = tuple(store.known[cell] for cell in cells)
        return CompareResult(self.scorer.metric, self.scorer.source, store.unpruned, found, store.experiment)

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
        if not math.isfinite(value):
            return CellResult(cell, error=f"The pruned model's {self.scorer.metric.name} is {value}.")
        macs, params = found.after.macs / found.before.macs, found.after.parameters / found.before.parameters
        return CellResult(cell, value, error, macs, params, found.speedup, round(seconds, 2))


def _error_scorer(
    original: nn.Module, couplings: CouplingMap, inputs: ExampleInputs, images: Images | None, plan: Plan
) -> tuple[ErrorScorer, Images | None]:
    """Return what measures the error of the outputs, and the images that may be fitted to."""
    forward_fn = plan.options.get("forward_fn")
    if images is None:
        return ErrorScorer(RelativeError.on_noise(original, couplings, inputs, forward_fn)), None
    given = collected(images, DEFAULT_COUNT, original, 0, inputs)
    if not plan.fitting:
        return ErrorScorer(RelativeError.on_images(original, couplings, given, forward_fn)), images
    measure = RelativeError.on_images(original, couplings, given.unseen, forward_fn)
    source = f"{measure.source}, to which nothing was fitted"
    return ErrorScorer(replace(measure, source=source)), given.fitted.parts


def _experiment(original: nn.Module, inputs: ExampleInputs, scorer: Scorer, options: dict[str, Any]) -> dict[str, Any]:
    """What cells must have in common to be in one table."""
    digest = hashlib.sha256()
    with exclusive(original):
        for name, tensor in (*original.named_parameters(), *original.named_buffers()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {
        "model": f"{type(original).__name__} {digest.hexdigest()[:16]}",
        "inputs": " and ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in tensors(inputs)),
        "metric": scorer.metric.name,
        "source": scorer.source,
        "options": {
            name: re.sub(r" at 0x\w+", "", repr(value))
            for name, value in sorted(options.items())
            if value != _DEFAULTS.get(name)  # what is not given is the same as what is given as it is by default
        },
    }
