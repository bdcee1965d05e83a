"""Prune the model as planned, and assemble the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from dfpc_plugin.advice import call, setting
from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.couplings.outputs import removed_outputs
from dfpc_plugin.couplings.sizes import changed_factors
from dfpc_plugin.criteria import label_of
from dfpc_plugin.display import counted
from dfpc_plugin.families import counting_note
from dfpc_plugin.latency import BUSY, FAST_MULTIPLE
from dfpc_plugin.layers import LayerTable, layer_shapes, layer_table
from dfpc_plugin.pruning.find_length import Measured
from dfpc_plugin.pruning.prunable_model import PrunableModel
from dfpc_plugin.pruning.rank import UNSCORED, left_out
from dfpc_plugin.pruning.result import CouplingCut, Figures, ProtectedCoupling, PruneResult
from dfpc_plugin.pruning.run import PruningRun, Selected
from dfpc_plugin.selection import Budget, Candidate, Counted, Target

NOT_REPAIRED = "The pruned model was not repaired"
"""How a note on that begins."""
_FAR = 0.03
"""A target that is passed by this share gets a note."""


def summarise(run: PruningRun, selected: Selected, *, rounded_by_default: bool) -> PruneResult:
    """Remove what was selected from the model, repair it, and return the result.

    What can fail is tried on copies first; MACs and parameters are counted on the pruned model itself.

    Raises:
        CutError: The model's forward cannot work without these channels; the model is not changed.
    """
    prunable, scores, phases, repairer = run.prunable, run.scores, run.phases, run.repairer
    order, measured, channels = selected.order, selected.measured, selected.channels
    counts = order.counts(selected.length)
    if run.latency is not None and measured is None:
        with phases("measuring latency") as tell:
            pair = {"before": prunable.model, "after": prunable.copy_without(channels)}
            found = run.latency.measure(pair, prunable.inputs, tell)
        measured = Measured(selected.length, found["before"], found["after"])
    gone, shapes = prunable.removed_with(channels), layer_shapes(prunable.model)
    scores.add("before", prunable.model)
    pairs = list(zip(order.candidates, counts, strict=True))
    couplings = tuple(_coupling(c, count, scored=prunable.settings.rescore is None) for c, count in pairs)
    with phases("cut"):
        removed = removed_outputs(prunable.channels, gone)
        groups = [prunable.graph.group_of(c.coupling, c.units[:count]) for c, count in pairs if count]
        prunable.graph.prune_together(groups)
    repairer.repair(prunable.model, gone, final=True)
    scores.add("after", prunable.model)
    with phases("counting"):
        macs = prunable.costs.cost(prunable.channels.removed).macs
        parameters = sum(p.numel() for p in prunable.model.parameters())
    full, total = prunable.costs.full, order.total
    figures = (
        Figures(total, full.macs, full.parameters, measured.before if measured else None, scores.known.get("before")),
        Figures(total - sum(counts), macs, parameters, measured.after if measured else None, scores.known.get("after")),
    )
    values = ((name, budget.reached(*figures)) for name, budget, _ in run.target.given(Budget))
    reached = {name: value for name, value in values if value is not None}
    layers = layer_table(shapes, layer_shapes(prunable.model), prunable.graph.coupling_map.order)
    omitted = left_out(prunable, order.candidates)
    notes = (
        *_notes(prunable, omitted, measured, rounded_by_default),
        *(_slow_widths(layers) if measured is None else ()),
        *_overshoot(run.target, reached, selected),
        *(
            ()
            if repairer.result
            else (
                f"{NOT_REPAIRED}, which costs accuracy. {setting('repair', 'merge')} takes seconds and needs no data.",
            )
        ),
    )
    return PruneResult(
        prunable.model, run.target, reached, *figures, couplings, removed, dict(phases.seconds), notes, repairer.result,
        _protected(prunable, omitted), layers, label_of(run.importance),
    )  # fmt: skip


def _coupling(candidate: Candidate, count: int, *, scored: bool) -> CouplingCut:
    """What a coupling loses with its `count` lowest units, with scores if they are of the unpruned model (`scored`)."""
    coupling, units = candidate.coupling, candidate.units
    scores = candidate.saliency[torch.argsort(units)].tolist() if scored else []
    gone = sorted(units[:count].tolist())
    return CouplingCut(coupling.name, coupling.feed_in, len(units), len(units) - count, tuple(scores), tuple(gone))


def _protected(
    prunable: PrunableModel, omitted: Sequence[tuple[DataFlowCoupling, str]]
) -> tuple[ProtectedCoupling, ...]:
    """Couplings that layers produce and that were not pruned, ones that were not ranked (`omitted`) included."""
    reasons = {id(c): c.protected for c in prunable.graph.couplings if c.protected is not None and c.feed_in}
    reasons |= {id(c): reason for c, reason in omitted}
    return tuple(
        ProtectedCoupling(coupling.name, coupling.feed_in, coupling.width, reasons[id(coupling)])
        for coupling in prunable.graph.couplings
        if id(coupling) in reasons
    )


def _names(names: Sequence[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _slow_widths(layers: LayerTable) -> Iterator[str]:
    """A warning of widths that many processors are slow with."""
    slow = [own for own in layers if own.outputs_before % FAST_MULTIPLE == 0 and own.outputs_after % FAST_MULTIPLE]
    if slow:
        yield (
            f"The widths of {counted(len(slow), 'layer')} are no longer multiples of {FAST_MULTIPLE}, such as {slow[0].outputs_after} channels of "
            f"'{slow[0].layer}'. Some runtimes are slower with such widths than with the unpruned ones, up to twice as slow: measure the "
            f"latency where you deploy, or use {setting('round_to', FAST_MULTIPLE)}."
        )


def _overshoot(target: Target, reached: Mapping[str, float], selected: Selected) -> Iterator[str]:
    """A note if the last step removed several channels at once, and saved far more than was left to save."""
    order, length = selected.order, selected.length
    missed = [abs(reached[name] - value) for name, _, value in target.given(Counted)]
    if target.measured or target.max_drop is not None or not length or min(missed) < _FAR:
        return
    last = order.candidates[int(order.steps[length - 1])].coupling
    written = [axis.channels for axis in last.axes if axis.layer == last.name and axis.role == "feed-in"]
    own = max((int(torch.isin(last.blocks[:, 0], channels).sum()) for channels in written), default=1)
    together = own * (order.round_to or 1)
    if together > 1:
        yield (
            f"More was removed than asked for, because '{last.name}' loses {together} channels at a time. To prune others instead, "
            f"give it to {setting('ignored_layers')}."
        )


def _notes(
    prunable: PrunableModel,
    omitted: Sequence[tuple[DataFlowCoupling, str]],
    measured: Measured | None,
    rounded_by_default: bool,
) -> Iterator[str]:
    changed = changed_factors(prunable.channels)
    if changed:
        yield (
            f"The forward multiplies by numbers that depend on layer widths, in {_names(changed)}. No weights can "
            f"compensate for that, so pruning changes the outputs more than it should. Keep those numbers fixed."
        )
    if rounded_by_default:
        yield (
            f"Widths are rounded to multiples of {FAST_MULTIPLE}, because the target is a latency; "
            f"{setting('round_to', 1)} switches this off."
        )
    protected = [c.width for c in prunable.graph.couplings if c.protected is not None and c.feed_in]
    if protected:
        shown = call("find_couplings", "couplings MODEL")
        yield f"Protected couplings: {len(protected)}, with {sum(protected)} channels; {shown} shows the reasons."
    unscored = [coupling.name for coupling, reason in omitted if reason is UNSCORED]
    if unscored:
        yield f"Not pruned, because the importance has no score for them: {_names(unscored)}."
    unused = prunable.graph.coupling_map.unused
    if unused:
        yield f"Not pruned, because the forward never uses them: {_names([*unused])} ({sum(unused.values())} parameters)."
    assumed = None if prunable.forward_fn is not None else counting_note(prunable.model, prunable.inputs)
    if assumed is not None:
        yield assumed
    if measured is not None and max(measured.before.noise, measured.after.noise) > BUSY:
        yield (
            f"The machine was busy: the interquartile range of the latency is {measured.before.noise:.0%} of the median "
            f"before pruning and {measured.after.noise:.0%} after."
        )
