"""Where a layer can take up a constant: in its bias, or in the mean that the batch norm behind it subtracts."""

from __future__ import annotations

from torch import Tensor

from dfpc_plugin.repairing.follow import Settlement

__all__ = ["kept_shift", "shift_outputs"]


def shift_outputs(settlement: Settlement, shift: Tensor) -> None:
    """Add `(outputs,)` to what a layer returns, or to what the batch norm behind it sees of that.

    Whether there is a place for it that no other layer shares is for `survey` to say.
    """
    if settlement.call.bias_is_free:
        assert settlement.call.bias is not None
        settlement.call.bias.data.add_(shift.to(settlement.call.bias))
    elif settlement.norm_mean is not None:
        settlement.norm_mean.sub_(shift.to(settlement.norm_mean))


def kept_shift(shift: Tensor, outputs: Tensor | None, factors: Tensor | None) -> Tensor:
    """What remains of a constant found for the unpruned layer, `(groups, outputs)`, scaled as its rows are: `(outputs,)`."""
    flat = shift.flatten()
    if outputs is not None:
        flat = flat[outputs.to(flat.device)]
    return flat if factors is None else flat * factors.flatten()
