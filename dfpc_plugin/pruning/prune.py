"""`prune`: a model and a target in, a smaller model and the record of how it came about out."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.cost import CostModel
from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.criteria import label_of
from dfpc_plugin.errors import PrunerSettingError, RepairError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.host.ignored import listed
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import interrupts_held
from dfpc_plugin.latency import LatencyModel, LatencySettings
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.progress import Phases, Progress, shown
from dfpc_plugin.pruning.evaluation import Evaluate, Scores
from dfpc_plugin.pruning.find_length import Measured, length_for_latency, length_for_score
from dfpc_plugin.pruning.mending import Mender
from dfpc_plugin.pruning.rank import Importance, build_graph, candidates_of, order_of, rescored_order
from dfpc_plugin.pruning.result import PruneResult
from dfpc_plugin.pruning.settings import Per, PruneSettings, default_per
from dfpc_plugin.pruning.subject import Subject
from dfpc_plugin.pruning.summary import summarise
from dfpc_plugin.pruning.trial import copy_of, kept_state
from dfpc_plugin.repaired_importance import default_importance, repaired_in
from dfpc_plugin.repairing import Method, RepairSettings
from dfpc_plugin.repairing.best import copy_state
from dfpc_plugin.repairing.settings import Images
from dfpc_plugin.selection import Order, Target, TargetError, keeps_budgets, length_for_budgets
from dfpc_plugin.surgery import cut
from dfpc_plugin.wrappers import plain_model

__all__ = ["prune"]


def prune(
    model: nn.Module,
    example_inputs: ExampleInputs,
    target: str | Target,
    *,
    importance: Importance | None = None,
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
    """Prune `model` to a target: channels go in the order of their saliency until every budget holds.

    No data is needed, unless the target is about accuracy. Costs are counted exactly, latency is measured.

    Args:
        model: Any model that `find_couplings` can follow. It is left as it is, unless `inplace`.
        example_inputs: What it is called with; costs and latency are those of these inputs.
        target: Such as "macs=0.5" or "speedup=1.5, max_drop=2"; see `Target`.
        importance: Scores groups; any of Torch-Pruning's importances. By default
            `DFPCImportance()`, or `RepairedImportance(ranking="output")` where `merge`, `synthetic` or `calibrate` follows.
        evaluate: Scores a model in evaluation mode, more is better; needed for `max_drop`.
        per: What saliency is divided by before it is ranked: see `PruneSettings`.
        rescore: The share of the channels after which saliency is computed anew, on the model as it is repaired by then;
            None to compute it once.
        max_ratio: The share of its channels that any coupling may lose.
        min_channels: What every layer keeps at least.
        round_to: What the number of channels that are kept is a multiple of, where any go. By default 8 where the target
            is about time (say 1 to have any number), else any number.
        ignored_layers: Layers whose outputs stay, one or several: modules, parameters, types of modules, names, or
            shell-style patterns.
        coupled: Whether couplings that several layers write, such as residual streams, lose channels too.
        whole_heads: Attention loses whole heads rather than dimensions of all of them.
        repair: How to mend what is left, as for the function `repair`: "mean", "merge", "synthetic" or "calibrate". Accuracy is
            that of the repaired model, also for `max_drop`.
        images: For "calibrate": unlabelled inputs.
        latency: How to measure latency; given, it is measured even where the target does not ask for it.
        forward_fn: Called as `forward_fn(model, example_inputs)` instead of the model.
        inplace: Prune `model` itself. If anything fails, it is as it was.
        progress: True for bars at once, False for none, or what to call with what is being done and the share of it that is
            done. By default bars after a few seconds, in a terminal or a notebook; `DFPC_PROGRESS=0` silences all calls.

    Returns:
        The pruned model with what was asked for, reached and removed.

    Raises:
        TargetError: The target makes no sense, or cannot be reached; the message says how far one gets.
        PrunerSettingError: A setting that cannot be followed.
        NothingToPruneError: No coupling may lose a channel.
        RepairError: The model cannot be repaired so.
        DFPCError: As `find_couplings` raises.
    """
    wanted = Target.parse(target)
    _require_usable(model, importance)
    model = plain_model(model, inplace=inplace)
    with exclusive(model):
        ignored = _by_name(model, ignored_layers)
    mending = None if repair is None else RepairSettings.of(repair, images)
    if mending is None and images is not None:
        raise RepairError("images are for repair='calibrate'; ask for that, or leave them out.")
    if wanted.max_drop is not None and evaluate is None:
        raise TargetError("max_drop needs to know the accuracy; pass evaluate, a function from a model to a number.")
    by_default = round_to is None and wanted.measured
    ranked_by = importance or default_importance(mending, example_inputs)
    settings = PruneSettings(
        per or default_per(ranked_by, wanted),
        rescore,
        max_ratio,
        min_channels,
        8 if by_default else round_to,
        ignored,
        coupled,
        whole_heads,
    )
    latency = _protocol(latency, wanted, settings, forward_fn)
    with torch.inference_mode(False), generators_kept(), shown(progress) as tell:
        phases = Phases(tell)
        with phases("couplings"):
            graph = build_graph(copy_of(model), example_inputs, settings, forward_fn, ranked_by)
            subject = Subject(graph, example_inputs, forward_fn, settings, CostModel(graph.coupling_map.channels))
        scores, mender = Scores(evaluate, phases), Mender(mending, graph, example_inputs, forward_fn, phases)
        mender.share_images(ranked_by, by_default=importance is None)
        order, length, measured = _plan(subject, wanted, ranked_by, latency, scores, phases, mender)
        uncut = kept_state(graph.coupling_map)
        result = summarise(
            subject,
            wanted,
            order,
            length,
            measured,
            latency,
            scores,
            phases,
            mender,
            rounded_by_default=by_default,
            criterion=label_of(ranked_by),
        )
    return _carried_out(result, model, uncut, order.channels(length)) if inplace else result


def _carried_out(result: PruneResult, model: nn.Module, uncut: CouplingMap, channels: Tensor) -> PruneResult:
    """Do to `model` itself what was done to its copy. A cut is the last thing that can fail, and it cuts all or nothing."""
    repair = result.repair
    with exclusive(model), interrupts_held():  # an interrupt must not leave the model cut and not repaired
        cut(model, uncut, channels)
        if repair is not None:
            copy_state(result.model, model)
            repair = dataclasses.replace(repair, model=model)
    return dataclasses.replace(result, model=model, repair=repair)


def _require_usable(model: Any, importance: Any) -> None:
    """Raise on what is easily given instead of a model or an importance.

    Raises:
        PrunerSettingError: Says what to give.
    """
    if not isinstance(model, nn.Module):
        meant = "its .model" if isinstance(model, PruneResult) else "a module, such as build_model('resnet50') returns"
        raise PrunerSettingError(f"model is a {type(model).__name__}; give {meant}.")
    if importance is not None and not callable(importance):
        raise PrunerSettingError(
            f"importance is a {type(importance).__name__}; give an object that scores groups, such as DFPCImportance() or "
            f"torch_pruning.importance.GroupMagnitudeImportance()."
        )


def _protocol(
    latency: LatencySettings | None, target: Target, settings: PruneSettings, forward_fn: ForwardFunction | None
) -> LatencySettings | None:
    """How latency is to be measured; None if it is not."""
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
    """Rank all units, and find how many of them go; with the latency of the result if that was measured."""
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
        rank = functools.partial(order_of, settings=subject.settings, costs=subject.costs, latency=predictor)
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
    """As far as accuracy allows; or check that it allows what other budgets have asked for.

    Raises:
        TargetError: It does not.
    """
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
    """Names in place of modules and parameters, which a copy of the model has under the same names."""
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    names.update((id(parameter), name) for name, parameter in model.named_parameters())
    return tuple(names.get(id(layer), layer) for layer in listed(layers))
