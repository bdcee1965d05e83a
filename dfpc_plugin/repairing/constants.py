"""Where a layer can take up a constant: in its bias, or in the mean that the batch norm behind it subtracts."""

from __future__ import annotations

from torch import Tensor

from dfpc_plugin.repairing.follow import Settlement
from dfpc_plugin.repairing.report import LayerRepair

__all__ = ["add_constant", "can_add_constant", "shift_outputs"]


def can_add_constant(settlement: Settlement) -> bool:
    """Whether there is a place for one."""
    return settlement.call.bias_is_free or settlement.norm_mean is not None


def shift_outputs(settlement: Settlement, shift: Tensor) -> None:
    """Add `(outputs,)` to what a layer returns, or to what the batch norm behind it sees of that."""
    if settlement.call.bias_is_free:
        assert settlement.call.bias is not None
        settlement.call.bias.data.add_(shift.to(settlement.call.bias))
    elif settlement.norm_mean is not None:
        settlement.norm_mean.sub_(shift.to(settlement.norm_mean))


def add_constant(
    pruned: Settlement, shift: Tensor, outputs: Tensor | None, factors: Tensor | None
) -> LayerRepair:
    """Add a constant found for the unpruned layer, `(groups, outputs)`, to what is left of it, scaled as its rows are."""
    name = pruned.call.name
    if not can_add_constant(pruned):
        return LayerRepair(name, False, note="has neither a bias nor a batch norm to take up a constant")
    flat = shift.flatten()
    if outputs is not None:
        flat = flat[outputs.to(flat.device)]
    shift_outputs(pruned, flat if factors is None else flat * factors.flatten())
    return LayerRepair(name, True)
