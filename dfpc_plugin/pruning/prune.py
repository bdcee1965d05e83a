"""`prune`: from a model and a target to a smaller model with a record of what was removed."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.advice import setting
from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.criteria import as_importance, require_scores_of_copies
from dfpc_plugin.errors import PrunerSettingError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.host.checks import listed
from dfpc_plugin.inputs import ExampleInputs, as_inputs, inputs_explained
from dfpc_plugin.interrupts import interrupts_held
from dfpc_plugin.latency import FAST_MULTIPLE, LatencySettings
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.pruning.prunable_model import copy_of
from dfpc_plugin.pruning.rank import Importance, build_prunable
from dfpc_plugin.pruning.repairs import Repairer
from dfpc_plugin.pruning.result import PruneResult
from dfpc_plugin.pruning.run import Evaluate, PruningRun, Scores
from dfpc_plugin.pruning.settings import Per, PruneSettings, default_per
from dfpc_plugin.pruning.summary import summarise
from dfpc_plugin.repaired_importance import default_importance
from dfpc_plugin.repairing import Method, RepairSettings
from dfpc_plugin.repairing.job import copy_state
from dfpc_plugin.repairing.settings import Images
from dfpc_plugin.selection import Target, TargetError
from dfpc_plugin.surgery import cut
from dfpc_plugin.wrappers import HoldsModel, plain_model


@checks_arguments
def prune(
    model: nn.Module | HoldsModel,
    example_inputs: ExampleInputs,
    target: str | Target,
    *,
    importance: Importance | type | str | None = None,
    evaluate: Evaluate | None = None,
    per: Per | None = None,
    rescore: float | None = None,
    max_ratio: float = 0.9,
    min_channels: int = 2,
    round_to: int | None = None,
    ignored_layers: Any = (),
    coupled: bool = True,
    whole_heads: bool = False,
    repair: Method | RepairSettings | None = None,
    images: Images | None = None,
    latency: LatencySettings | None = None,
    forward_fn: ForwardFunction | None = None,
    inplace: bool = False,
    progress: Progress | bool | None = None,
) -> PruneResult:
    """Prune `model` to a target: remove channels in the order of their saliency until the target is met.

    Only a target in accuracy needs data. MACs and parameters are counted exactly, latency is measured.

    Args:
        model: Any model whose operators are known, or the result of an earlier call. It is not changed, unless `inplace`.
        example_inputs: Example inputs of the model; MACs and latency refer to these.
        target: The target, such as "macs=0.5" or "speedup=1.5, max_drop=2"; see `Target`.
        importance: Scores groups; any of Torch-Pruning's importances, or the name of a criterion, such as "magnitude". By
            default `DFPCImportance("output")`, or `RepairedImportance(ranking="output")` if the repair is `merge`, `synthetic`
            or `calibrate`.
        evaluate: Returns the score of a model in evaluation mode, higher is better; needed for `max_drop`.
        per: Divide saliency by this saving before ranking; see `PruneSettings`.
        rescore: Recompute saliency after every such fraction of the channels is removed, on the repaired model; None to
            compute it once.
        max_ratio: Largest fraction of its channels that a coupling loses.
        min_channels: Smallest number of channels that a layer keeps.
        round_to: Round the remaining channels of pruned couplings to a multiple of this number. By default 8 for targets in
            latency (1 switches this off), else no rounding.
        ignored_layers: Layers whose outputs are not pruned, one or several: modules, parameters, types of modules, names, or
            shell-style patterns.
        coupled: Whether to prune couplings that several layers produce, such as residual streams.
        whole_heads: Remove whole attention heads instead of some dimensions of all heads.
        repair: How to repair the pruned model, as for the function `repair`: "mean", "merge", "synthetic" or "calibrate".
            Accuracy is that of the repaired model, also for `max_drop`.
        images: For "calibrate": unlabelled inputs.
        latency: How to measure latency. If given, latency is measured for every target.
        forward_fn: Called as `forward_fn(model, example_inputs)` instead of the model.
        inplace: Prune `model` itself. If anything fails, it is not changed.
        progress: True for progress bars at once, False for none, or a function that is called with the phase and the fraction
            of it that is done. By default bars after a few seconds, in a terminal or a notebook; `DFPC_PROGRESS=0` silences
            all calls.

    Returns:
        The pruned model with the target, the result and the removed channels.

    Raises:
        TargetError: The target is malformed or cannot be reached; the message says how far `prune` can get.
        PrunerSettingError: A setting is invalid.
        NothingToPruneError: No coupling can be pruned.
        RepairError: The model cannot be repaired with this method.
        DFPCError: As `find_couplings` raises.
    """
    wanted = Target.parse(target)
    model, example_inputs = plain_model(model, inplace=inplace), as_inputs(example_inputs)
    importance = as_importance(importance)
    require_scores_of_copies(importance)
    with exclusive(model):
        ignored = _by_name(model, ignored_layers)
    repairing = RepairSettings.or_none(repair, images)
    _check_target(wanted, evaluate, per)
    by_default = round_to is None and wanted.measured
    ranked_by = importance or default_importance(repairing, example_inputs)
    per, round_to = per or default_per(ranked_by, wanted), FAST_MULTIPLE if by_default else round_to
    settings = PruneSettings(per, rescore, max_ratio, min_channels, round_to, ignored, coupled, whole_heads)
    latency = _latency_settings(latency, wanted, settings, forward_fn)
    explained = nullcontext() if forward_fn else inputs_explained(model, example_inputs)
    with explained, torch.inference_mode(False), generators_kept(), shown(progress) as tell:
        phases = Phases(tell)
        with phases("couplings"):
            prunable = build_prunable(copy_of(model), example_inputs, forward_fn, settings, ranked_by)
        repairer = Repairer(repairing, prunable, phases)
        repairer.share_images(ranked_by, by_default=importance is None)
        run = PruningRun(prunable, wanted, ranked_by, latency, Scores(evaluate, phases), phases, repairer)
        selected, uncut = run.select(), prunable.graph.coupling_map.copy()
        result = summarise(run, selected, rounded_by_default=by_default)
    return _carried_out(result, model, uncut, selected.channels) if inplace else result


def _carried_out(result: PruneResult, model: nn.Module, uncut: CouplingMap, channels: Tensor) -> PruneResult:
    """Prune and repair `model` itself like its copy. Only `cut` can still fail, and it then changes nothing."""
    repair = result.repair
    with exclusive(model), interrupts_held():  # an interrupt must not leave the model pruned but not repaired
        cut(model, uncut, channels)
        if repair is not None:
            copy_state(result.model, model)
            repair = dataclasses.replace(repair, model=model)
    return dataclasses.replace(result, model=model, repair=repair)


def _check_target(target: Target, evaluate: Evaluate | None, per: Per | None) -> None:
    """Raise unless the other arguments have what the target needs."""
    if target.max_drop is not None and evaluate is None:
        raise TargetError("max_drop needs to know the accuracy; pass evaluate, a function from a model to a number.")
    if per == "target" and not target.counted:
        raise PrunerSettingError(
            f"{setting('per', 'target')} needs a target that counts something, not {target}; give {setting('per', 'macs')}."
        )


def _latency_settings(
    latency: LatencySettings | None, target: Target, settings: PruneSettings, forward_fn: ForwardFunction | None
) -> LatencySettings | None:
    """How to measure latency, or None to measure none."""
    if target.measured or settings.per == "latency":
        latency = latency or LatencySettings()
    if latency is not None and forward_fn is not None:
        raise PrunerSettingError(
            "Latency is measured by calling the model, which a forward_fn is there to avoid; wrap the model in a module "
            "that calls it so, or ask for a target that is counted."
        )
    return latency


def _by_name(model: nn.Module, layers: Any) -> tuple[Any, ...]:
    """Replace modules and parameters by their names, which are the same in a copy of the model."""
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    names.update((id(parameter), name) for name, parameter in model.named_parameters())
    return tuple(names.get(id(layer), layer) for layer in listed(layers))
