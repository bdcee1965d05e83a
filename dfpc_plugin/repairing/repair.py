"""`repair`: a pruned model and the one it was pruned from in, the pruned one with mended weights out."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dfpc_plugin.families import run_forward
from dfpc_plugin.flow import ForwardFunction
from dfpc_plugin.flow.tree import returned_tensors
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.repairing.batchnorm import norms_of, reestimated
from dfpc_plugin.repairing.calibration import Calibration
from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.kept import Kept, kept_channels
from dfpc_plugin.repairing.least_squares import fit_layers
from dfpc_plugin.repairing.mean import fold_means
from dfpc_plugin.repairing.merge import merge_channels
from dfpc_plugin.repairing.noise import pink_noise
from dfpc_plugin.repairing.report import LayerRepair, RepairResult
from dfpc_plugin.repairing.settings import Images, Method, RepairSettings
from dfpc_plugin.repairing.store import Store, fingerprint

__all__ = ["copy_state", "repair", "repair_kept"]

_NOISE = 2**16


def repair(
    model: nn.Module,
    original: nn.Module,
    example_inputs: ExampleInputs,
    how: Method | RepairSettings = "synthetic",
    *,
    images: Images | None = None,
    removed: Mapping[str, Sequence[int]] | None = None,
    forward_fn: ForwardFunction | None = None,
    inplace: bool = False,
    progress: Progress | bool | None = None,
) -> RepairResult:
    """Mend what pruning broke: change what is left of every layer so that it does what it did in the unpruned model.

    Works after any pruner that removes channels and leaves the other weights as they are, which Torch-Pruning's and this
    package's do; repair before you fine-tune.

    Args:
        model: The pruned model. It is left as it is, unless `inplace`.
        original: The model that it was pruned from, with its weights. It is left as it is.
        example_inputs: What both are called with.
        how: A method, from no data at all to a handful of images: `none`, `mean`, `merge`, `synthetic`, `calibrate`. Or
            `RepairSettings` for the details.
        images: For `calibrate`: unlabelled inputs, as a tensor or in batches.
        removed: Which outputs went, as in `PruneResult.removed`; by default found by comparing weights.
        forward_fn: Called as `forward_fn(model, inputs)` instead of the models.
        inplace: Change `model` itself. If anything fails, it is as it was.
        progress: True for bars in the terminal, or what to call with what is being done and the share of it that is done.

    Returns:
        The repaired model with what was done to each layer.

    Raises:
        RepairError: This cannot be repaired so; the message says why, and what can be done.
        DFPCError: As `find_couplings` raises.
    """
    settings = RepairSettings.of(how, images)
    with shown(progress) as tell:
        phases = Phases(tell)
        with phases("channels"):
            kept = kept_channels(model, original, example_inputs, forward_fn, removed)
        result = repair_kept(model, original, example_inputs, settings, kept, forward_fn=forward_fn, phases=phases)
    if not inplace:
        return result
    copy_state(result.model, model)
    return dataclasses.replace(result, model=model)


def repair_kept(
    model: nn.Module,
    original: nn.Module,
    example_inputs: ExampleInputs,
    settings: RepairSettings,
    kept: Kept,
    *,
    forward_fn: ForwardFunction | None,
    phases: Phases,
    calibration: Calibration | None = None,
) -> RepairResult:
    """As `repair`, where it is known what is left; always on a copy.

    Args:
        model: The pruned model.
        original: The model it was pruned from.
        example_inputs: What both are called with.
        settings: How.
        kept: Which channels are left.
        forward_fn: As everywhere.
        phases: Times what is done, and passes progress on.
        calibration: Inputs that serve several repairs.

    Raises:
        RepairError: As `repair` raises.
    """
    before = dict(phases.seconds)
    with torch.random.fork_rng(devices=[]), _without_gradients():
        mended = copy.deepcopy(model)
        modes = [module.training for module in mended.modules()]
        mended.eval()
        with evaluating(original):
            work = _Work(mended, original, example_inputs, settings, kept, forward_fn, phases, calibration)
            layers = _METHODS[settings.method](work)
        for module, mode in zip(mended.modules(), modes, strict=True):
            module.training = mode
    seconds = {name: took - before.get(name, 0.0) for name, took in phases.seconds.items() if took != before.get(name)}
    return RepairResult(mended, settings.method, tuple(layers), work.output_error, seconds, tuple(work.notes))


class _Work:
    """A repair that is under way.

    Attributes:
        model: What is repaired, in evaluation mode.
        original: What it was pruned from.
        example_inputs: What both are called with.
        settings: How.
        forward_fn: How they are called, if not plainly.
        phases: Times what is done.
        kept: Which channels are left.
        calibration: Inputs to run on, if others have used them too.
        output_error: Of the model's output, before and after.
        notes: What the user should know.
    """

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        example_inputs: ExampleInputs,
        settings: RepairSettings,
        kept: Kept,
        forward_fn: ForwardFunction | None,
        phases: Phases,
        calibration: Calibration | None,
    ) -> None:
        """Begin."""
        self.model, self.original, self.example_inputs = model, original, example_inputs
        self.settings, self.forward_fn, self.phases = settings, forward_fn, phases
        self.kept, self.calibration = kept, calibration
        self.output_error: tuple[float, float] | None = None
        self.notes: list[str] = []

    def error(self, batches: Batches) -> float | None:
        """Squared error of the model's output over its variance; None where outputs cannot be compared."""
        wrong = squares = 0.0
        count, sums = 0, [torch.zeros(())]
        for batch in batches.parts:
            found, wanted = (_outputs(model, batch, self.forward_fn) for model in (self.model, self.original))
            if [t.shape for t in found] != [t.shape for t in wanted] or any(not other.dim() for other in wanted):
                return None
            wrong += sum(float((mine - other).square().sum()) for mine, other in zip(found, wanted, strict=True))
            squares += sum(float(other.square().sum()) for other in wanted)
            means = [other.sum(0).double() for other in wanted]
            if count and [t.shape for t in means] != [t.shape for t in sums]:
                return None
            sums = [a + b for a, b in zip(sums, means, strict=True)] if count else means
            count += max((len(other) for other in wanted), default=1)
        total = squares - sum(float(own.square().sum()) for own in sums) / max(1, count)
        return wrong / total if total > 1e-9 * squares else None


def _none(work: _Work) -> list[LayerRepair]:
    """Leave the model as it was cut."""
    return []


def _mean(work: _Work) -> list[LayerRepair]:
    """Constants."""
    with work.phases("means"):
        return fold_means(work.model, work.original, work.example_inputs, work.kept, work.forward_fn)


def _merge(work: _Work) -> list[LayerRepair]:
    """Stand-ins, from noise."""
    with work.phases("merging"):
        noise, settings = _noise(work.example_inputs, work.settings.seed), work.settings
        return merge_channels(
            work.model, work.original, noise, work.kept, work.forward_fn, rows=settings.rows, seed=settings.seed
        )


def _least_squares(work: _Work) -> list[LayerRepair]:
    """Least squares of every layer, and batch norms if that makes the output better."""
    settings = work.settings
    calibration = work.calibration or Calibration(settings, work.forward_fn, settings.checkpoint)
    with work.phases("images") as tell:
        batches = calibration.batches(work.original, work.example_inputs, tell)
    work.notes += [calibration.note] if calibration.note else []
    with work.phases("evaluating"):
        before = work.error(batches.unseen)
    with work.phases("layers") as tell:
        layers = fit_layers(
            work.model, work.original, batches, work.kept, forward_fn=work.forward_fn, ridge=settings.used_ridge,
            rows=settings.rows, seed=settings.seed, memory_gib=settings.memory_gib, store=_store(work, batches), progress=tell,
        )
    with work.phases("evaluating"):
        after = work.error(batches.unseen)
    if settings.batchnorm and calibration.matches and after is not None and norms_of(work.model):
        after = _try_norms(work, batches, after)
    work.output_error = None if before is None or after is None else (before, after)
    return layers


def _try_norms(work: _Work, batches: Batches, after: float) -> float:
    """Re-estimate batch norms, and put them back unless that makes the output better; with the error that is left."""
    own = [batch for batch, count in zip(batches.fitted.parts, batches.fitted.counts, strict=True) if count > 1]
    if not own:
        return after
    with work.phases("batch norms"), reestimated(work.model, own, work.forward_fn) as keep:
        again = work.error(batches.unseen)
        keep[0] = again is not None and again < after
    said = "unknown" if again is None else f"{again:.2%}"
    work.notes.append(
        f"Re-estimating batch norms takes the output's error from {after:.2%} to {said}: {'kept' if keep[0] else 'put back'}."
    )
    return again if keep[0] and again is not None else after


_METHODS: dict[str, Callable[[_Work], list[LayerRepair]]] = {
    "none": _none, "mean": _mean, "merge": _merge, "synthetic": _least_squares, "calibrate": _least_squares
}


@contextlib.contextmanager
def _without_gradients() -> Iterator[None]:
    """Weights are written to, also where the caller is in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _store(work: _Work, batches: Batches) -> Store:
    """Where solved layers are kept."""
    own = work.settings
    if own.checkpoint is None:
        return Store(None, "")
    said = {name: getattr(own, name) for name in ("method", "used_ridge", "rows", "memory_gib", "seed")}
    kept = work.kept.removed.nonzero().flatten().tolist()
    mark = fingerprint([work.model, work.original], {**said, "removed": kept}, batches.parts)
    return Store(Path(own.checkpoint), mark)


def _noise(example_inputs: ExampleInputs, seed: int) -> ExampleInputs:
    """Noise in the shape of images; other inputs as they are."""
    if not isinstance(example_inputs, Tensor) or example_inputs.dim() != 4 or not example_inputs.is_floating_point():
        return example_inputs
    channels, height, width = example_inputs.shape[1:]
    count = max(4, min(64, _NOISE // (height * width)))
    noise = pink_noise((count, channels, height, width), torch.Generator().manual_seed(seed))
    return noise.to(example_inputs)


def _outputs(model: nn.Module, batch: ExampleInputs, forward_fn: ForwardFunction | None) -> list[Tensor]:
    """Tensors of numbers that a model returns."""
    result = run_forward(model, batch, forward_fn)
    return [tensor.float() for tensor in returned_tensors(result) if tensor.is_floating_point()]


def copy_state(source: nn.Module, target: nn.Module) -> None:
    """Give a model the parameters of another of the same shapes, and the statistics of its batch norms."""
    with torch.no_grad():
        for mine, new in zip(target.parameters(), source.parameters(), strict=True):
            mine.data.copy_(new)
        for norm, other in zip(norms_of(target), norms_of(source), strict=True):
            for own, value in zip(norm.buffers(), other.buffers(), strict=True):
                own.copy_(value)
