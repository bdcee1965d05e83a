"""Repair by moments: the mean contribution of removed channels is added to a layer's outputs as a constant."""

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

_POWER = 1.5
"""Exponent of the remaining share of a variance: one fits uncorrelated inputs, two fully correlated ones."""
_LEAST = 0.1
"""Smallest remaining share, so that channels that hardly vary are not amplified."""


def fold_means(
    model: nn.Module, original: nn.Module, example_inputs: ExampleInputs, kept: Kept, forward_fn: ForwardFunction | None
) -> list[LayerRepair]:
    """Compensate for the means and variances of removed channels, in place; return a report on each layer.

    Their mean contribution is added to the layer's constant, and the variance stored by a batch norm behind it is
    reduced by the share that is lost. Otherwise signals would fade from layer to layer, until the outputs are constant.
    (This share is estimated from the layer alone; it stays if `norm_moments` has no noise to measure it.)

    The means follow from the batch norms, or layer norms, and the activations in between (see `analyses.moments`): no
    data is run, only the shape of the example inputs counts. Exact for constant channels, except at the borders of
    padded images.
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
    """The factor by which the variance of every output falls without the removed inputs, `(groups, outputs)`."""
    squares = call.matrix.square()
    left = torch.where(inputs.to(variance.device), variance, torch.zeros_like(variance))
    some, every = (torch.einsum("goi,gi->go", squares, call.constant_rows(own).to(squares)) for own in (left, variance))
    share = torch.where(every > 0, some / every.clamp_min(1e-300), torch.ones_like(every))
    return share.pow(_POWER).clamp_min(_LEAST)


def _per_channel(mean: Tensor | None, call: LayerCall) -> Tensor | None:
    """One mean or variance per input channel, `(channels,)`."""
    if mean is None:
        return None
    axis = call.channel_axis
    channels = call.input.shape[axis]
    if mean.dim() < -axis or mean.shape[axis] not in (1, channels):
        return None
    flat = mean.movedim(axis, -1)
    return flat.expand(*flat.shape[:-1], channels).reshape(-1, channels).double().mean(0)
