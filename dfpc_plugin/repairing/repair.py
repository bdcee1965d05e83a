"""`repair`: a pruned model and the one it was pruned from in, the pruned one with repaired weights out."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from dfpc_plugin.errors import NonFiniteWeightError, RepairError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.inputs import ExampleInputs, as_inputs, inputs_explained
from dfpc_plugin.interrupts import interrupts_held
from dfpc_plugin.option_names import checks_option_names
from dfpc_plugin.preserve import evaluating, exclusive
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.repairing.best import copy_state
from dfpc_plugin.repairing.job import RepairJob
from dfpc_plugin.repairing.kept import kept_channels
from dfpc_plugin.repairing.report import RepairResult
from dfpc_plugin.repairing.settings import Images, Method, RepairSettings
from dfpc_plugin.saliency import require_finite
from dfpc_plugin.wrappers import HoldsModel, as_model, plain_model

__all__ = ["repair", "repair_job"]


@checks_option_names
def repair(
    model: nn.Module | HoldsModel,
    original: nn.Module | HoldsModel,
    example_inputs: ExampleInputs,
    how: Method | RepairSettings = "synthetic",
    *,
    images: Images | None = None,
    removed: Mapping[str, Sequence[int]] | None = None,
    forward_fn: ForwardFunction | None = None,
    inplace: bool = False,
    progress: Progress | bool | None = None,
) -> RepairResult:
    """Change the weights of a pruned model so that every layer computes what it did in the unpruned model, as closely as it can.

    Works after any pruner that removes channels and leaves the other weights as they are, which Torch-Pruning's and this
    package's do; repair before you fine-tune.

    Args:
        model: The pruned model, or what `prune` returned. It is left as it is, unless `inplace`.
        original: The model that it was pruned from, with its weights. It is left as it is.
        example_inputs: What both are called with.
        how: A method, from no data at all to a handful of images: `none`, `mean`, `merge`, `synthetic`, `calibrate`. Or
            `RepairSettings` for the details.
        images: For `calibrate`: unlabelled inputs, as a tensor or in batches.
        removed: Which outputs went, as in `PruneResult.removed`; by default what `prune` returned says, or else found by
            comparing weights.
        forward_fn: Called as `forward_fn(model, inputs)` instead of the models.
        inplace: Change `model` itself. If anything fails, it is as it was.
        progress: True for bars at once, False for none, or what to call with what is being done and the share of it that is
            done. By default bars after a few seconds, in a terminal or a notebook; `DFPC_PROGRESS=0` silences all calls.

    Returns:
        The repaired model with what was done to each layer.

    Raises:
        RepairError: This cannot be repaired so; the message says why, and what can be done.
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
    """Do a repair on a copy of its model.

    Raises:
        RepairError: As `repair` raises.
    """
    before = dict(job.phases.seconds)
    with generators_kept(), _without_gradients():
        with exclusive(job.model):
            mended = copy.deepcopy(job.model)
        modes = [module.training for module in mended.modules()]
        mended.eval()
        own = dataclasses.replace(job, model=mended)
        with evaluating(job.original):
            layers = job.settings.how.repair(own)
        if layers:
            _require_finite(mended, job.settings.method)
        for module, mode in zip(mended.modules(), modes, strict=True):
            module.training = mode
    after = job.phases.seconds.items()
    seconds = {name: took - before.get(name, 0.0) for name, took in after if took != before.get(name)}
    return RepairResult(mended, job.settings.method, tuple(layers), own.output_error, seconds, tuple(own.notes))


def _require_real(model: nn.Module) -> None:
    """Raise if all weights of a model are complex, as least squares and statistics are of real numbers.

    Raises:
        RepairError: They are.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.is_complex()]
    if names and not any(parameter.is_floating_point() for parameter in model.parameters()):
        raise RepairError(
            f"'{names[0]}' and the other weights are complex; only models with real weights can be repaired."
        )


def _require_finite(model: nn.Module, method: str) -> None:
    """Raise if a repair has left a model with weights or statistics that are no numbers.

    Raises:
        RepairError: Names the first.
    """
    try:
        require_finite(model)
    except NonFiniteWeightError as error:
        raise RepairError(
            f"After repair by {method}, '{error.name}' is not finite: what layers compute is too large for its type; "
            f"leave the repair out, or check the weights and the running statistics before that layer."
        ) from error


@contextlib.contextmanager
def _without_gradients() -> Iterator[None]:
    """Weights are written to, also where the caller is in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield
