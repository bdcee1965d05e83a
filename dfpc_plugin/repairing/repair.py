"""`repair`: repair the weights of a pruned model, given the model it was pruned from."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.errors import NonFiniteWeightError, RepairError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.inputs import ExampleInputs, as_inputs, inputs_explained
from dfpc_plugin.interrupts import interrupts_held
from dfpc_plugin.preserve import evaluating, exclusive
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.repairing.job import RepairJob, copy_state
from dfpc_plugin.repairing.kept import kept_channels
from dfpc_plugin.repairing.report import RepairResult
from dfpc_plugin.repairing.settings import Images, Method, RepairSettings
from dfpc_plugin.saliency import require_finite
from dfpc_plugin.wrappers import HoldsModel, as_model, plain_model


@checks_arguments
def repair(
    model: nn.Module | HoldsModel,
    original: nn.Module | HoldsModel,
    example_inputs: ExampleInputs,
    how: Method | RepairSettings | None = None,
    *,
    images: Images | None = None,
    removed: Mapping[str, Sequence[int]] | None = None,
    forward_fn: ForwardFunction | None = None,
    inplace: bool = False,
    progress: Progress | bool | None = None,
) -> RepairResult:
    """Change the weights of a pruned model so that its layers' outputs come close to those in the unpruned model.

    Works after any pruner that removes channels and leaves the other weights unchanged, as Torch-Pruning and this
    package do; repair before you fine-tune.

    Args:
        model: The pruned model, or the result of `prune`. Not changed unless `inplace`.
        original: The model that it was pruned from, with its weights. Not changed.
        example_inputs: What both are called with.
        how: A method: `none`, `mean`, `merge`, `synthetic` or `calibrate`, from no data at all to a handful of images.
            Or `RepairSettings` for the details. By default `calibrate` if there are images, else `merge`.
        images: For `calibrate`: unlabelled inputs, as a tensor or in batches.
        removed: The removed outputs, as in `PruneResult.removed`; by default taken from the result of `prune`, or else
            found by comparing weights.
        forward_fn: Called as `forward_fn(model, inputs)` instead of the models.
        inplace: Change `model` itself. If anything fails, it stays as it was.
        progress: True for progress bars at once, False for none, or a function called with the current phase and the
            share that is done. By default bars appear after a few seconds, in a terminal or a notebook;
            `DFPC_PROGRESS=0` silences all calls.

    Returns:
        The repaired model with a report on each layer.

    Raises:
        RepairError: The model cannot be repaired in this way; the message says why, and what to do.
        DFPCError: As `find_couplings` raises.
    """
    settings = RepairSettings.of(how, images)
    removed = getattr(model, "removed", None) if removed is None and isinstance(model, HoldsModel) else removed
    model, original = plain_model(model, inplace=inplace), plain_model(as_model(original, "original"))
    example_inputs = as_inputs(example_inputs)
    _require_real(original)
    explained = contextlib.nullcontext() if forward_fn else inputs_explained(model, example_inputs)
    with explained, shown(progress) as tell:
        phases = Phases(tell)
        with phases("channels"), exclusive(model, original):
            kept = kept_channels(model, original, example_inputs, forward_fn, removed)
        result = repair_job(RepairJob(model, original, example_inputs, settings, kept, phases, forward_fn))
    if not inplace:
        return result
    with exclusive(model), interrupts_held():
        copy_state(result.model, model)
    return dataclasses.replace(result, model=model)


def repair_job(job: RepairJob) -> RepairResult:
    """Repair a copy of a job's model; raises as `repair` does."""
    before = dict(job.phases.seconds)
    with generators_kept(), _without_gradients():
        with exclusive(job.model):
            repaired = copy.deepcopy(job.model)
        modes = [module.training for module in repaired.modules()]
        repaired.eval()
        own = dataclasses.replace(job, model=repaired)
        with evaluating(job.original):
            layers = job.settings.how.repair(own)
        job.noise = own.noise
        if layers:
            _require_finite(repaired, job.settings.method)
        for module, mode in zip(repaired.modules(), modes, strict=True):
            module.training = mode
    after = job.phases.seconds.items()
    seconds = {name: took - before.get(name, 0.0) for name, took in after if took != before.get(name)}
    return RepairResult(
        repaired, job.settings.method, tuple(layers), own.output_error, seconds, tuple(own.notes), own.measured_on
    )


def _require_real(model: nn.Module) -> None:
    """Raise RepairError if all weights are complex, as least squares and statistics need real numbers."""
    names = [name for name, parameter in model.named_parameters() if parameter.is_complex()]
    if names and not any(parameter.is_floating_point() for parameter in model.parameters()):
        raise RepairError(
            f"'{names[0]}' and the other weights are complex; only models with real weights can be repaired."
        )


def _require_finite(model: nn.Module, method: str) -> None:
    """Raise RepairError if weights or statistics of a repaired model are not finite."""
    try:
        require_finite(model)
    except NonFiniteWeightError as error:
        raise RepairError(
            f"After repair by {method}, '{error.name}' is not finite: what layers compute is too large for its type; "
            f"leave the repair out, or check the weights and the running statistics before that layer."
        ) from error


@contextlib.contextmanager
def _without_gradients() -> Iterator[None]:
    """Allow writing to weights, even if the caller is in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield
