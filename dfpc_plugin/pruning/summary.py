"""Prune the model as planned, and assemble the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dfpc_plugin.advice import call, setting
from dfpc_plugin.cost import Cost
from dfpc_plugin.couplings.outputs import removed_outputs
from dfpc_plugin.couplings.sizes import changed_factors
from dfpc_plugin.display import counted
from dfpc_plugin.families import counting_note
from dfpc_plugin.latency import BUSY, FAST_MULTIPLE, LatencySettings
from dfpc_plugin.layers import LayerTable, layer_shapes, layer_table
from dfpc_plugin.progress import Phases
from dfpc_plugin.pruning.evaluation import Scores
from dfpc_plugin.pruning.find_length import Measured
from dfpc_plugin.pruning.mending import Mender
from dfpc_plugin.pruning.rank import UNSCORED, left_out
from dfpc_plugin.pruning.result import CouplingCut, Figures, ProtectedCoupling, PruneResult
from dfpc_plugin.pruning.subject import Subject, copy_of
from dfpc_plugin.selection import Budget, Candidate, Counted, Order, Target

NOT_REPAIRED = "The pruned model was not repaired"
"""How a note on that begins."""
_FAR = 0.03
"""A target that is passed by this share gets a note."""


def summarise(
    subject: Subject,
    target: Target,
    order: Order,
    length: int,
    measured: Measured | None,
    latency: LatencySettings | None,
    scores: Scores,
    phases: Phases,
    mender: Mender,
    *,
    rounded_by_default: bool,
    criterion: str,
) -> PruneResult:
    """Remove the first `length` units of `order` from the model, repair it, and return the result.

    What can fail is tried on copies first; MACs and parameters are counted on the pruned model itself.

    Raises:
        CutError: The model's forward cannot work without them; the model is not changed.
    """
    channels, counts = order.channels(length), order.counts(length)
    if latency is not None and measured is None:
        with phases("measuring latency") as tell:
            pair = {"before": subject.model, "after": subject.copy_without(channels)}
            found = latency.measure(pair, subject.inputs, tell)
        measured = Measured(length, found["before"], found["after"])
    removed_channels, shapes = subject.removed_with(channels), layer_shapes(subject.model)
    scores.before(lambda: copy_of(subject.model))
    scored = subject.settings.rescore is None
    couplings = tuple(_coupling(c, count, scored) for c, count in zip(order.candidates, counts, strict=True))
    with phases("cut"):
        gone = order.removed(length, subject.channels.removed) & ~subject.channels.removed
        removed = removed_outputs(subject.channels, gone)
        pairs = zip(order.candidates, counts, strict=True)
        groups = [subject.graph.group_of(c.coupling, c.units[:count]) for c, count in pairs if count]
        subject.graph.prune_together(groups)
    mender.mend(subject.model, removed_channels, final=True)
    before, after = scores.both(lambda: copy_of(subject.model).eval())
    with phases("counting"):
        cost = _counted(subject)
    full, total = subject.costs.full, order.total
    figures = (
        Figures(total, full.macs, full.parameters, measured.before if measured else None, before),
        Figures(total - sum(counts), cost.macs, cost.parameters, measured.after if measured else None, after),
    )
    reached = _reached(target, *figures)
    layers = layer_table(shapes, layer_shapes(subject.model), subject.graph.coupling_map.order)
    notes = _notes(subject, order, measured, rounded_by_default) + _slow_widths(layers, measured)
    notes += _overshoot(target, reached, order, length)
    if not mender.result:
        repair = setting("repair", "merge")
        notes += (f"{NOT_REPAIRED}, which costs accuracy. {repair} takes seconds and needs no data.",)
    return PruneResult(
        subject.model, target, reached, *figures, couplings, removed, dict(phases.seconds), notes, mender.result,
        _protected(subject, order), layers, criterion,
    )  # fmt: skip


def _coupling(candidate: Candidate, count: int, scored: bool) -> CouplingCut:
    """What a coupling loses with its `count` lowest units, with scores if they are of the unpruned model (`scored`)."""
    coupling, units = candidate.coupling, candidate.units
    scores = candidate.saliency[torch.argsort(units)].tolist() if scored else []
    gone = sorted(units[:count].tolist())
    return CouplingCut(coupling.name, coupling.feed_in, len(units), len(units) - count, tuple(scores), tuple(gone))


def _protected(subject: Subject, order: Order) -> tuple[ProtectedCoupling, ...]:
    """Couplings that layers produce and that were not pruned, ones that were not ranked included."""
    reasons = {id(c): c.protected for c in subject.graph.couplings if c.protected is not None and c.feed_in}
    reasons |= {id(c): reason for c, reason in left_out(subject.graph, order.candidates, subject.settings)}
    return tuple(
        ProtectedCoupling(coupling.name, coupling.feed_in, coupling.width, reasons[id(coupling)])
        for coupling in subject.graph.couplings
        if id(coupling) in reasons
    )


def _counted(subject: Subject) -> Cost:
    """Cost of the pruned model: MACs by remaining channels, parameters one by one."""
    macs = subject.costs.cost(subject.channels.removed).macs
    return Cost(macs, sum(p.numel() for p in subject.model.parameters()))


def _reached(target: Target, before: Figures, after: Figures) -> Mapping[str, float]:
    found = {name: budget.reached(before, after) for name, budget, _ in target.given(Budget)}
    return {name: value for name, value in found.items() if value is not None}


def _names(names: Sequence[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _slow_widths(layers: LayerTable, measured: Measured | None) -> tuple[str, ...]:
    """A warning of widths that many processors are slow with, unless latency was measured."""
    slow = [own for own in layers if own.outputs_before % FAST_MULTIPLE == 0 and own.outputs_after % FAST_MULTIPLE]
    if measured is not None or not slow:
        return ()
    return (
        f"The widths of {counted(len(slow), 'layer')} are no longer multiples of {FAST_MULTIPLE}, such as {slow[0].outputs_after} channels of "
        f"'{slow[0].layer}'. Some runtimes are slower with such widths than with the unpruned ones: measure the latency where you "
        f"deploy, or use {setting('round_to', FAST_MULTIPLE)}.",
    )


def _overshoot(target: Target, reached: Mapping[str, float], order: Order, length: int) -> tuple[str, ...]:
    """A note if the last step removed several channels at once, and saved far more than was left to save."""
    missed = [abs(reached[name] - value) for name, _, value in target.given(Counted)]
    if target.measured or target.max_drop is not None or not length or min(missed) < _FAR:
        return ()
    last = order.candidates[int(order.steps[length - 1])].coupling
    written = [axis.channels for axis in last.axes if axis.layer == last.name and axis.role == "feed-in"]
    own = max((int(torch.isin(last.blocks[:, 0], channels).sum()) for channels in written), default=1)
    together = own * (order.round_to or 1)
    return () if together == 1 else (
        f"More was removed than asked for, because '{last.name}' loses {together} channels at a time. To prune others instead, "
        f"give it to {setting('ignored_layers')}.",
    )  # fmt: skip


def _notes(subject: Subject, order: Order, measured: Measured | None, rounded_by_default: bool) -> tuple[str, ...]:
    notes = []
    changed = changed_factors(subject.channels)
    if changed:
        notes.append(
            f"The forward multiplies by numbers that depend on layer widths, in {_names(changed)}. No weights can "
            f"compensate for that, so pruning changes the outputs more than it should. Keep those numbers fixed."
        )
    if rounded_by_default:
        notes.append(
            f"Widths are rounded to multiples of {FAST_MULTIPLE}, because the target is a latency; "
            f"{setting('round_to', 1)} switches this off."
        )
    protected = [
        coupling for coupling in subject.graph.couplings if coupling.protected is not None and coupling.feed_in
    ]
    if protected:
        width = sum(coupling.width for coupling in protected)
        shown = call("find_couplings", "couplings MODEL")
        notes.append(f"Protected couplings: {len(protected)}, with {width} channels; {shown} shows the reasons.")
    omitted = left_out(subject.graph, order.candidates, subject.settings)
    unscored = [coupling.name for coupling, reason in omitted if reason is UNSCORED]
    if unscored:
        notes.append(f"Not pruned, because the importance has no score for them: {_names(unscored)}.")
    unused = subject.graph.coupling_map.unused
    if unused:
        notes.append(
            f"Not pruned, because the forward never uses them: {_names([*unused])} ({sum(unused.values())} parameters)."
        )
    assumed = None if subject.forward_fn is not None else counting_note(subject.model, subject.inputs)
    if assumed is not None:
        notes.append(assumed)
    if measured is not None and max(measured.before.noise, measured.after.noise) > BUSY:
        notes.append(
            f"The machine was busy: the interquartile range of the latency is {measured.before.noise:.0%} of the median "
            f"before pruning and {measured.after.noise:.0%} after."
        )
    return tuple(notes)
