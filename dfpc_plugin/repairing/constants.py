"""Add a constant to a layer's outputs, through its bias or the mean of the batch norm behind it."""

from __future__ import annotations

from torch import Tensor

from dfpc_plugin.repairing.follow import Settlement


def shift_outputs(settlement: Settlement, shift: Tensor) -> None:
    """Add `shift`, `(outputs,)`, to a layer's outputs, through its bias or the running mean of its batch norm.

    `survey` tells whether these belong to this layer alone.
    """
    if settlement.call.bias_is_free:
        assert settlement.call.bias is not None
        settlement.call.bias.data.add_(shift.to(settlement.call.bias))
    elif settlement.norm_mean is not None:
        settlement.norm_mean.sub_(shift.to(settlement.norm_mean))


def kept_shift(shift: Tensor, outputs: Tensor | None, factors: Tensor | None) -> Tensor:
    """The kept entries, `(outputs,)`, of a constant of the unpruned layer, `(groups, outputs)`, times `factors`."""
    flat = shift.flatten()
    if outputs is not None:
        flat = flat[outputs.to(flat.device)]
    return flat if factors is None else flat * factors.flatten()
