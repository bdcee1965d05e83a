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
    if model is original:
        raise RepairError(
            "model and original are the same object; give the unpruned model as original, such as the copy.deepcopy that was "
            "made before prune(..., inplace=True)."
        )
    _require_part(model, original)
    couplings = map_couplings(original, example_inputs, forward_fn)
    channels = couplings.channels
    tensors, pruned = _tensors(original), _tensors(model)
    missing = next(
        (t for t in (a.tensor for a in channels.axes) if t not in pruned or pruned[t].dim() != tensors[t].dim()), None
    )
    if missing is not None:
        raise RepairError(f"The pruned model has no '{missing}' like the original; pass what it was pruned from.")
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
        if axis.groups == 1:
            left = int((~gone[axis.channels]).sum())
            found = pruned[axis.tensor].shape[axis.dim]
            if found != left:
                raise RepairError(
                    f"'{axis.tensor}' of the pruned model has {found} entries in dimension {axis.dim} where {left} would be "
                    f"left; pass the model that it was pruned from and, if the cut is known, its record as removed."
                )
    return Kept(couplings, gone)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by path."""
    named = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {path: tensor for found in named for path, tensor in found}


def _require_part(model: nn.Module, original: nn.Module) -> None:
    """Raise, before any work is done, if the parameters of a model cannot be parts of those of the original.

    Raises:
        RepairError: Names the first of them, and says whether the two models are swapped.
    """
    whole = {path: tuple(parameter.shape) for path, parameter in original.named_parameters(remove_duplicate=False)}
    part = {path: tuple(parameter.shape) for path, parameter in model.named_parameters(remove_duplicate=False)}
    wrong = next((path for path, shape in part.items() if path not in whole or not _fits(shape, whole[path])), None)
    if wrong is None:
        return
    if wrong not in whole:
        raise RepairError(f"The original has no '{wrong}' like the pruned model; pass what that was pruned from.")
    told = f"'{wrong}' has the shape {part[wrong]} in the pruned model and {whole[wrong]} in the original"
    if part.keys() == whole.keys() and all(_fits(whole[path], part[path]) for path in part):
        raise RepairError(f"The pruned model and the original are swapped: {told}; call repair(pruned, original, ...).")
    raise RepairError(f"{told}, so it was pruned from another one; pass that, with its weights, as original.")


def _fits(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether a shape is no longer than another in any dimension."""
    return len(part) == len(whole) and all(a <= b for a, b in zip(part, whole, strict=True))
