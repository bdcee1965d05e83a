"""Repair by merging: channels that stay stand in for those that went, by how they go together.

What a layer reads of a removed channel is replaced by its regression on the channels that stay, `x_r ~ a x_k + c`, position
by position, which folds into the layer's own weights: `W_k + W_r a`, and a constant. How channels go together is a matter of
the weights in front of them; it is read off noise that runs through the unpruned model while every batch norm is made to find
the statistics that it has stored. No data is needed, and nothing is optimised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dfpc_plugin.flow import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.calls import LayerCall
from dfpc_plugin.repairing.constants import add_constant, can_add_constant
from dfpc_plugin.repairing.factors import kept_matrix, row_factors
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.lockstep import Pair, settlements
from dfpc_plugin.repairing.report import LayerRepair
from dfpc_plugin.repairing.statistics import ImposedStatistics

__all__ = ["merge_channels"]

_MOST = 4096
_FLOOR = 1e-7
_CAUTION = 0.3


def merge_channels(
    model: nn.Module,
    original: nn.Module,
    noise: ExampleInputs,
    kept: Kept,
    forward_fn: ForwardFunction | None,
    *,
    rows: int,
    seed: int,
) -> list[LayerRepair]:
    """Fold removed channels into kept ones in every layer that reads them, in place.

    Args:
        model: The pruned model.
        original: The one it was pruned from.
        noise: What to call the original with.
        kept: Which channels are left.
        forward_fn: As everywhere.
        rows: How many positions to look at, at most.
        seed: Chooses them.

    Returns:
        What was done, layer by layer.
    """
    generator = torch.Generator().manual_seed(seed)
    stand_ins: dict[tuple[str, int | None], list[Tensor | None]] = {}
    means: dict[tuple[str, int | None], Tensor] = {}
    for settlement in settlements(original, noise, forward_fn, ImposedStatistics):
        call, inputs = settlement.call, kept.inputs(settlement.call)
        key = (call.name, call.rows_of.start)
        if inputs is not None and key not in stand_ins:
            channels = _channels(call, rows, generator)
            means[key] = channels.mean(0) if can_add_constant(settlement) else torch.zeros_like(channels[0])
            channels -= means[key]
            stand_ins[key] = list(_stand_ins(channels, inputs, call.groups))
    found = []
    with contextlib.closing(Pair(original, model, noise_of_one(noise), forward_fn)) as pair:
        while pair.advance():
            call = pair.original.call
            key = (call.name, call.rows_of.start)
            if key in stand_ins:
                found.append(_fold(pair, kept, stand_ins[key], means[key]))
    return found


def noise_of_one(noise: ExampleInputs) -> ExampleInputs:
    """The first of some inputs."""
    return noise[:1] if isinstance(noise, Tensor) else noise


def _channels(call: LayerCall, rows: int, generator: torch.Generator) -> Tensor:
    """What a layer is given, position by position: `(positions, channels)`, float64."""
    flat = call.input.movedim(call.channel_axis, -1).reshape(-1, call.input.shape[call.channel_axis])
    if len(flat) > rows:
        flat = flat[torch.randperm(len(flat), generator=generator)[:rows].sort().values.to(flat.device)]
    return flat.double()


def _stand_ins(channels: Tensor, inputs: Tensor, groups: int) -> Iterator[Tensor | None]:
    """By group of a layer's inputs, the weights with which kept channels stand in: `(removed, kept)`; None if none can.

    Channels are taken around their means where the layer can take up the constant that this leaves.

    The ridge grows with the share of a channel that the others do not tell: where a channel is another's double it is
    next to nothing, and the double stands in exactly; where a regression explains little, little of it is believed.
    """
    for own, keep in zip(channels.unflatten(1, (groups, -1)).unbind(1), inputs.view(groups, -1), strict=True):
        keep = keep.to(own.device)
        kept, removed = own[:, keep], own[:, ~keep]
        if not keep.any() or keep.all() or kept.shape[1] > _MOST:
            yield None
            continue
        values, vectors = torch.linalg.eigh(kept.mT @ kept / len(own))
        across = vectors.mT @ (kept.mT @ removed) / len(own)
        total = removed.square().mean(0)
        level = values.clamp_min(0).mean()
        sure = across / (values.clamp_min(0) + _FLOOR * level)[:, None]
        told = (2 * (across * sure).sum(0) - (sure.square() * values.clamp_min(0)[:, None]).sum(0)) / total.clamp_min(1e-300)
        ridge = level * (_FLOOR + _CAUTION * (1 - told).clamp(0, 1))
        yield (vectors @ (across / (values.clamp_min(0)[:, None] + ridge))).mT


def _fold(pair: Pair, kept: Kept, stand_ins: list[Tensor | None], mean: Tensor) -> LayerRepair:
    """Change the weights of one layer."""
    call, pruned = pair.original.call, pair.pruned
    inputs = kept.inputs(call)
    assert inputs is not None
    if any(weights is None for weights in stand_ins) or kept_matrix(call, pruned.call, kept) is None:
        return LayerRepair(call.name, False, note="its groups of inputs went as a whole, or are too wide to compare")
    taps = call.taps()
    by_channel = call.matrix.unflatten(2, (-1, taps))
    change, constant = [], []
    for matrix, weights, keep, level in zip(
        by_channel, stand_ins, inputs.view(call.groups, -1).to(mean.device), mean.view(call.groups, -1), strict=True
    ):
        assert weights is not None
        removed = matrix[:, ~keep]
        change.append(torch.einsum("ort,rk->okt", removed, weights).flatten(1))
        rest = torch.zeros_like(level)
        rest[~keep] = level[~keep] - weights @ level[keep]
        constant.append(rest)
    outputs, factors = kept.outputs(call), row_factors(call, pruned.call, kept)
    if outputs is not None:
        rows = outputs.view(call.groups, -1).to(mean.device)
        change = [own[keep] for own, keep in zip(change, rows, strict=True)]
    added = torch.stack(change)
    shift = torch.einsum("goi,gi->go", call.matrix, call.constant_rows(torch.cat(constant)))
    if can_add_constant(pruned):
        add_constant(pruned, shift, outputs, factors)
    pruned.call.write(pruned.call.matrix + (added if factors is None else added * factors[:, :, None]))
    return LayerRepair(call.name, True)
