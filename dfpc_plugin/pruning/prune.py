"""`prune`: from a model and a target to a smaller model with a record of what was removed."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.advice import setting
from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.criteria import as_importance, label_of, require_scores_of_copies
from dfpc_plugin.errors import PrunerSettingError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.host.ignored import listed
from dfpc_plugin.inputs import ExampleInputs, as_inputs, inputs_explained
from dfpc_plugin.interrupts import interrupts_held
from dfpc_plugin.latency import FAST_MULTIPLE, LatencyModel, LatencySettings
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.pruning.evaluation import Evaluate, Scores
from dfpc_plugin.pruning.find_length import Measured, length_for_latency, length_for_score
from dfpc_plugin.pruning.mending import Mender
from dfpc_plugin.pruning.rank import Importance, build_graph, candidates_of, order_of, rescored_order
from dfpc_plugin.pruning.result import PruneResult
from dfpc_plugin.pruning.settings import Per, PruneSettings, default_per
from dfpc_plugin.pruning.subject import Subject, copy_of, kept_state
from dfpc_plugin.pruning.summary import summarise
from dfpc_plugin.repaired_importance import default_importance, repaired_in
from dfpc_plugin.repairing import Method, RepairSettings
from dfpc_plugin.repairing.job import copy_state
from dfpc_plugin.repairing.settings import Images
from dfpc_plugin.selection import Order, Target, TargetError, keeps_budgets, length_for_budgets
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
    mending = RepairSettings.or_none(repair, images)
    _check_target(wanted, evaluate, per)
    by_default = round_to is None and wanted.measured
    ranked_by = importance or default_importance(mending, example_inputs)
    per, round_to = per or default_per(ranked_by, wanted), FAST_MULTIPLE if by_default else round_to
    settings = PruneSettings(per, rescore, max_ratio, min_channels, round_to, ignored, coupled, whole_heads)
    latency = _latency_settings(latency, wanted, settings, forward_fn)
    explained = nullcontext() if forward_fn else inputs_explained(model, example_inputs)
    with explained, torch.inference_mode(False), generators_kept(), shown(progress) as tell:
        phases = Phases(tell)
        with phases("couplings"):
            graph = build_graph(copy_of(model), example_inputs, settings, forward_fn, ranked_by)
            subject = Subject(graph, example_inputs, forward_fn, settings)
        scores, mender = Scores(evaluate, phases), Mender(mending, graph, example_inputs, forward_fn, phases)
        mender.share_images(ranked_by, by_default=importance is None)
        order, length, measured = _plan(subject, wanted, ranked_by, latency, scores, phases, mender)
        uncut = kept_state(graph.coupling_map)
        result = summarise(
            subject, wanted, order, length, measured, latency, scores, phases, mender,
            rounded_by_default=by_default, criterion=label_of(ranked_by),
        )  # fmt: skip
    return _carried_out(result, model, uncut, order.channels(length)) if inplace else result


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


def _plan(
    subject: Subject,
    target: Target,
    importance: Importance,
    latency: LatencySettings | None,
    scores: Scores,
    phases: Phases,
    mender: Mender,
) -> tuple[Order, int, Measured | None]:
    """Rank all units, and find how many to remove; also returns the latency of the result if it was measured."""
    ranking = repaired_in(importance)
    if ranking is not None and ranking.calibration is not None:
        with phases("images") as tell:
            ranking.prepare(subject.graph, tell)
    with phases("saliency") as tell:
        candidates = candidates_of(subject.graph, importance, subject.settings, tell)
    predictor = None
    if latency is not None and (target.measured or subject.settings.per == "latency"):
        with phases("latency of layers") as tell:
            predictor = LatencyModel(subject.model, subject.inputs, subject.channels, latency, tell)
    with phases("selection") as tell:
        rank = functools.partial(order_of, subject, latency=predictor, target=target)
        if subject.settings.rescore is None:
            order = rank(candidates, subject.channels.removed)
        else:
            enough = functools.partial(_enough, subject, target, predictor)
            order = rescored_order(subject, importance, rank, enough, tell, mender.mend)
        length = length_for_budgets(order, subject.costs, subject.channels.removed, target)
    measured = None
    if target.measured and predictor is not None and latency is not None:
        with phases("measuring latency") as tell:
            measured = length_for_latency(subject, order, predictor, target, latency, length, tell)
        length = measured.length
    if target.max_drop is not None:
        length = _length_for_score(subject, order, target, scores, length, mender)
    return order, length, measured


def _enough(subject: Subject, target: Target, predictor: LatencyModel | None, removed: Tensor, ratio: float) -> bool:
    """Whether removing the channels `removed` meets every budget; a measured budget may need all that can be removed."""
    return target.max_drop is None and not target.measured and keeps_budgets(target, subject.costs, removed, ratio)


def _length_for_score(
    subject: Subject, order: Order, target: Target, scores: Scores, length: int, mender: Mender
) -> int:
    """The length that the accuracy allows; raise TargetError if it does not allow the one for other budgets."""
    assert target.max_drop is not None
    base = scores.of("before", copy_of(subject.model))

    def score_of(steps: int) -> float:
        channels = order.channels(steps)
        return scores.of("after", mender.mended(subject.copy_without(channels), subject.removed_with(channels)))

    if not (target.measured or target.counted):
        length, scores.known["after"] = length_for_score(score_of, base, target.max_drop, len(order))
        return length
    score = score_of(length)
    if base - score > target.max_drop:
        raise TargetError(
            f"The target {target} cannot be reached: the other budgets take evaluate from {base:.4g} to {score:.4g}, a "
            f"drop of {base - score:.4g}. Ask for less, allow a larger drop, or repair and fine-tune. The model is as it was."
        )
    return length


def _by_name(model: nn.Module, layers: Any) -> tuple[Any, ...]:
    """Replace modules and parameters by their names, which are the same in a copy of the model."""
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    names.update((id(parameter), name) for name, parameter in model.named_parameters())
    return tuple(names.get(id(layer), layer) for layer in listed(layers))
