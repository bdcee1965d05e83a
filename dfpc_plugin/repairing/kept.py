"""Which outputs and inputs of every layer remain in a pruned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dfpc_plugin.couplings import CouplingMap, map_couplings
from dfpc_plugin.couplings.channels import Axis
from dfpc_plugin.couplings.outputs import RecordError, channels_of_record
from dfpc_plugin.errors import RepairError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.calls import LayerCall
from dfpc_plugin.repairing.match import match_channels

__all__ = ["Kept", "kept_channels"]


class Kept:
    """The channels that remain in a pruned model.

    Attributes:
        removed: Which channels are removed, `(channels,)` of bool.
    """

    def __init__(self, couplings: CouplingMap, removed: Tensor) -> None:
        """Combine the channels `removed` with the `couplings` of the unpruned model."""
        self.removed = removed
        self._axes: dict[tuple[str, int], Axis] = {(a.tensor, a.dim): a for a in couplings.channels.axes}

    def along(self, tensor: str, dim: int) -> Tensor | None:
        """Which entries remain along a dimension of a parameter, `(entries,)` of bool; None if none can be pruned."""
        axis = self._axes.get((tensor, dim))
        return None if axis is None else ~self.removed[axis.channels]

    def outputs(self, call: LayerCall) -> Tensor | None:
        """Which outputs of a call on the unpruned model remain; None if all do."""
        kept = self._of(call.name, call.weight_axis)
        return kept if kept is None else kept[call.rows_of]

    def inputs(self, call: LayerCall) -> Tensor | None:
        """Which inputs of a call on the unpruned model remain, `(channels,)`, over all groups.

        None if all do, or if each group remains or is removed as a whole: a depthwise convolution keeps all that it
        reads.
        """
        kept = self._of(call.name, 1 - call.weight_axis)
        if kept is None or call.groups == 1:
            return kept
        of_groups = kept.view(call.groups, -1)
        return None if bool((of_groups == of_groups[:, :1]).all()) else kept

    def _of(self, layer: str, dim: int) -> Tensor | None:
        kept = next((k for t in (f"{layer}.weight", layer) if (k := self.along(t, dim)) is not None), None)
        return None if kept is None or bool(kept.all()) else kept


def kept_channels(
    model: nn.Module,
    original: nn.Module,
    example_inputs: ExampleInputs,
    forward_fn: ForwardFunction | None,
    removed: Mapping[str, Sequence[int]] | None,
) -> Kept:
    """Find out which channels of `original` remain in `model`.

    `removed` has the indices of removed outputs by layer, as in `PruneResult.removed`; None to find them by comparing
    weights.

    Raises:
        RepairError: They cannot be found, or `model` is not `original` without some channels.
        DFPCError: As `find_couplings` raises.
    """
    couplings = map_couplings(original, example_inputs, forward_fn)
    channels = couplings.channels
    tensors = dict(original.named_parameters(remove_duplicate=False)) | dict(
        original.named_buffers(remove_duplicate=False)
    )
    pruned = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    if removed is None:
        gone = match_channels(channels, tensors, pruned)
    else:
        try:
            gone = channels_of_record(couplings, removed)
        except RecordError as error:
            raise RepairError(
                f"removed {error.problem}; pass what PruneResult.removed is."
                if error.problem
                else f"removed names outputs of '{error.layer}' that the original does not have; pass the record of this cut."
            ) from None
    for axis in channels.axes:
        if axis.groups == 1 and axis.tensor in pruned:
            left = int((~gone[axis.channels]).sum())
            found = pruned[axis.tensor].shape[axis.dim] if axis.dim < pruned[axis.tensor].dim() else -1
            if found != left:
                raise RepairError(
                    f"'{axis.tensor}' of the pruned model has {found} entries in dimension {axis.dim} where {left} would be "
                    f"left; pass the model that it was pruned from and, if the cut is known, its record as removed."
                )
    return Kept(couplings, gone)
