"""Repair by moments: a layer gets, as a constant, what channels that went would have given it on average."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.interrupts import undone
from dfpc_plugin.repairing.calls import LayerCall
from dfpc_plugin.repairing.constants import kept_shift, shift_outputs
from dfpc_plugin.repairing.factors import row_factors
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.lockstep import Pair
from dfpc_plugin.repairing.report import NO_PLACE, LayerRepair
from dfpc_plugin.repairing.survey import survey
from dfpc_plugin.trace import trace_model

__all__ = ["fold_means"]

_POWER = 1.5
"""Of the share of a variance that is left: one for inputs that have nothing to do with each other, two for inputs that are all
alike; what a layer reads is in between."""
_LEAST = 0.1
"""The share that is left at least: what hardly varies is not blown up."""


def fold_means(
    model: nn.Module, original: nn.Module, example_inputs: ExampleInputs, kept: Kept, forward_fn: ForwardFunction | None
) -> list[LayerRepair]:
    """Let layers do without removed channels as far as their means and variances tell, in place.

    What these contribute on average goes into the layer's constant, and a batch norm behind it expects as much less variance:
    otherwise signals would die away from layer to layer, and the network end in a constant. (That is an estimate from this layer
    alone, which stays where `norm_moments` has no noise to measure by.)

    The expected value of a channel follows from the batch norms, or layer norms, and the activations on its way (see
    `analyses.moments`): no data is run, and example inputs are for their shape alone. Exact for channels that are constant, but
    for the borders of padded images.

    Returns:
        What was done, layer by layer.
    """
    run = trace_model(original, example_inputs, forward_fn, flow="variances").bounds
    assert run is not None
    means = run.arriving
    found = []
    pair = Pair(original, model, example_inputs, forward_fn)
    with undone(pair.close):
        for step in survey(original, example_inputs, forward_fn):
            pair.advance()
            call = pair.original.call
            inputs = kept.inputs(call)
            if inputs is None or not step.last:
                continue
            if not step.takes_constant:
                found.append(LayerRepair(call.name, False, note=NO_PLACE))
                continue
            mean = _per_channel(means.get(call.name), call)
            if mean is None:
                found.append(LayerRepair(call.name, False, note="what its inputs are on average is not known"))
                continue
            lost = torch.where(inputs.to(mean.device), torch.zeros_like(mean), mean)
            shift = torch.einsum("goi,gi->go", call.matrix, call.constant_rows(lost).to(call.matrix))
            factors = row_factors(call, pair.pruned.call, kept)
            shift_outputs(pair.pruned, kept_shift(shift, kept.outputs(call), factors))
            variance = _per_channel(run.varying.get(call.name), call)
            if step.norm_is_own and pair.pruned.norm_variance is not None and variance is not None:
                share = _varying_share(call, inputs, variance)
                pair.pruned.norm_variance.mul_(
                    kept_shift(share, kept.outputs(call), None).to(pair.pruned.norm_variance)
                )
            found.append(LayerRepair(call.name, True))
    return found


def _varying_share(call: LayerCall, inputs: Tensor, variance: Tensor) -> Tensor:
    """How much less every output varies without the inputs that are not kept, `(groups, outputs)`."""
    squares = call.matrix.square()
    left = torch.where(inputs.to(variance.device), variance, torch.zeros_like(variance))
    some, every = (torch.einsum("goi,gi->go", squares, call.constant_rows(own).to(squares)) for own in (left, variance))
    share = torch.where(every > 0, some / every.clamp_min(1e-300), torch.ones_like(every))
    return share.pow(_POWER).clamp_min(_LEAST)


def _per_channel(mean: Tensor | None, call: LayerCall) -> Tensor | None:
    """One expected value per input channel, `(channels,)`."""
    if mean is None:
        return None
    axis = call.channel_axis
    channels = call.input.shape[axis]
    if mean.dim() < -axis or mean.shape[axis] not in (1, channels):
        return None
    flat = mean.movedim(axis, -1)
    return flat.expand(*flat.shape[:-1], channels).reshape(-1, channels).double().mean(0)
