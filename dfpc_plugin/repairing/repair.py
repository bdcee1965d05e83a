"""`repair`: a pruned model and the one it was pruned from in, the pruned one with mended weights out."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.flow import ForwardFunction
from dfpc_plugin.flow.tree import returned_tensors
from dfpc_plugin.inputs import ExampleInputs, as_call
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.repairing.batchnorm import norms_of, reestimated
from dfpc_plugin.repairing.inputs import DEFAULT_COUNT, collected, unseen_part
from dfpc_plugin.repairing.kept import Kept, kept_channels
from dfpc_plugin.repairing.least_squares import fit_layers
from dfpc_plugin.repairing.mean import fold_means
from dfpc_plugin.repairing.merge import merge_channels
from dfpc_plugin.repairing.noise import pink_noise
from dfpc_plugin.repairing.report import LayerRepair, RepairResult
from dfpc_plugin.repairing.settings import Images, Method, RepairSettings
from dfpc_plugin.repairing.store import Store, fingerprint
from dfpc_plugin.repairing.synthesis import synthesise

__all__ = ["calibration_inputs", "repair"]

_MATCHES = 0.05
"""Nats of divergence up to which synthetic images are taken to match; photographs are at 0.006, noise is at 0.4."""
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
    mended = copy.deepcopy(model)
    modes = [module.training for module in mended.modules()]
    mended.eval()
    with shown(progress) as tell, torch.random.fork_rng(devices=[]), _without_gradients(), evaluating(original):
        phases = Phases(tell)
        work = _Work(mended, original, example_inputs, settings, forward_fn, phases)
        with phases("channels"):
            work.kept = kept_channels(mended, original, example_inputs, forward_fn, removed)
        layers = _METHODS[settings.method](work)
    for module, mode in zip(mended.modules(), modes, strict=True):
        module.training = mode
    if inplace:
        _copy_state(mended, model)
    result = model if inplace else mended
    return RepairResult(result, settings.method, tuple(layers), work.output_error, dict(phases.seconds), tuple(work.notes))


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
        output_error: Of the model's output, before and after.
        notes: What the user should know.
    """

    kept: Kept

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        example_inputs: ExampleInputs,
        settings: RepairSettings,
        forward_fn: ForwardFunction | None,
        phases: Phases,
    ) -> None:
        """Begin."""
        self.model, self.original, self.example_inputs = model, original, example_inputs
        self.settings, self.forward_fn, self.phases = settings, forward_fn, phases
        self.output_error: tuple[float, float] | None = None
        self.notes: list[str] = []

    def error(self, batches: Sequence[ExampleInputs]) -> float | None:
        """Squared error of the model's output over its variance; None where outputs cannot be compared."""
        wrong = squares = 0.0
        count, sums = 0, [torch.zeros(())]
        for batch in batches:
            found, wanted = (_outputs(model, batch, self.forward_fn) for model in (self.model, self.original))
            if [t.shape for t in found] != [t.shape for t in wanted]:
                return None
            wrong += sum(float((mine - other).square().sum()) for mine, other in zip(found, wanted, strict=True))
            squares += sum(float(other.square().sum()) for other in wanted)
            means = [other.sum(0).double() for other in wanted if other.dim()]
            sums = [a + b for a, b in zip(sums, means, strict=True)] if count else means
            count += max((len(other) for other in wanted if other.dim()), default=1)
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


def _synthetic(work: _Work) -> list[LayerRepair]:
    """Least squares on images made from the model."""
    marked = {"seed": work.settings.seed, "steps": work.settings.steps, "count": work.settings.count}
    store = _store(work, marked)
    with work.phases("images") as tell:
        batches, divergence, noise = calibration_inputs(work.original, work.example_inputs, work.settings, store, tell)
    matches = divergence <= _MATCHES
    work.notes.append(
        f"Images are {divergence:.3f} nats from the statistics of the batch norms, per channel; noise is {noise:.3f}, and "
        f"photographs would be about 0.006."
        + ("" if matches else " That is far: images of your own, with method='calibrate', will do better.")
    )
    return _fitted(work, batches, store, norms=matches)


def _calibrate(work: _Work) -> list[LayerRepair]:
    """Least squares on the user's images."""
    batches = collected(work.settings.images, work.settings.count or DEFAULT_COUNT, work.model)
    return _fitted(work, batches, _store(work, {"seed": work.settings.seed}, batches), norms=True)


_METHODS: dict[str, Callable[[_Work], list[LayerRepair]]] = {
    "none": _none, "mean": _mean, "merge": _merge, "synthetic": _synthetic, "calibrate": _calibrate
}


def calibration_inputs(
    original: nn.Module,
    example_inputs: ExampleInputs,
    settings: RepairSettings,
    store: Store | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[list[ExampleInputs], float, float]:
    """Make synthetic images, or take those made before; with their divergence, and that of the noise they come from.

    Raises:
        RepairError: The model has no stored statistics, or takes no images.
    """
    if store is not None and store.has("images"):
        found, said = store.load_tensors("images")
        like = next(iter(original.parameters()))
        return [found[name].to(like.device) for name in sorted(found)], said["divergence"], said["before"]
    made = synthesise(
        original, example_inputs, count=settings.count, steps=settings.steps, seed=settings.seed, progress=progress  # type: ignore[arg-type]
    )
    if store is not None:
        content = {f"batch-{number:05d}": batch for number, batch in enumerate(made.batches)}
        store.save_tensors("images", content, {"divergence": made.divergence, "before": made.before})
    return list(made.batches), made.divergence, made.before


def _fitted(work: _Work, batches: list[ExampleInputs], store: Store, *, norms: bool) -> list[LayerRepair]:
    """Least squares, and batch norms if that makes the output better."""
    settings = work.settings
    unseen = unseen_part(batches)
    with work.phases("evaluating"):
        before = work.error(unseen)
    with work.phases("layers") as tell:
        layers = fit_layers(
            work.model, work.original, batches, work.kept, forward_fn=work.forward_fn, ridge=settings.used_ridge,
            rows=settings.rows, seed=settings.seed, memory_gib=settings.memory_gib, store=store, progress=tell,
        )
    with work.phases("evaluating"):
        after = work.error(unseen)
    if norms and settings.batchnorm and after is not None and norms_of(work.model):
        with work.phases("batch norms"), reestimated(work.model, batches, work.forward_fn) as keep:
            again = work.error(unseen)
            keep[0] = again is not None and again < after
            kept = "kept" if keep[0] else "put back"
        work.notes.append(f"Re-estimating batch norms takes the output's error from {after:.2%} to {again:.2%}: {kept}.")
        after = again if keep[0] else after
    work.output_error = None if before is None or after is None else (before, after)
    return layers


@contextlib.contextmanager
def _without_gradients() -> Iterator[None]:
    """Weights are written to, also where the caller is in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _store(work: _Work, settings: Mapping[str, Any], inputs: Any = ()) -> Store:
    """Where solved layers are kept."""
    directory = work.settings.checkpoint
    if directory is None:
        return Store(None, "")
    own = work.settings
    said = {"method": own.method, "ridge": own.used_ridge, "rows": own.rows, "memory_gib": own.memory_gib, **settings}
    return Store(Path(directory), fingerprint(work.model, said, inputs))


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
    args, kwargs = as_call(batch)
    result = model(*args, **kwargs) if forward_fn is None else forward_fn(model, batch)
    return [tensor.float() for tensor in returned_tensors(result) if tensor.is_floating_point()]


def _copy_state(source: nn.Module, target: nn.Module) -> None:
    """Give a model the values of another of the same shapes."""
    with torch.no_grad():
        for mine, new in zip(target.parameters(), source.parameters(), strict=True):
            mine.data.copy_(new)
        for own, other in zip(target.buffers(), source.buffers(), strict=True):
            own.copy_(other)
