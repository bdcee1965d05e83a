"""What was removed, by layer and index, and how to do it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dfpc_plugin.couplings import CouplingMap, map_couplings
from dfpc_plugin.errors import CutError
from dfpc_plugin.flow import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.surgery import cut
from dfpc_plugin.wrappers import plain_model

__all__ = ["removed_outputs", "replay"]


def removed_outputs(couplings: CouplingMap, removed: Tensor) -> dict[str, tuple[int, ...]]:
    """List the outputs that `removed` channels, `(channels,)` of bool, are of every layer that writes some of them."""
    result: dict[str, tuple[int, ...]] = {}
    for axis in couplings.channels.axes:
        if axis.role == "feed-in":
            indices = removed[axis.channels].nonzero().squeeze(1).tolist()
            if indices:
                result[axis.layer] = tuple(indices)
    return result


def replay(
    model: nn.Module,
    example_inputs: ExampleInputs,
    removed: Mapping[str, Sequence[int]],
    forward_fn: ForwardFunction | None = None,
) -> nn.Module:
    """Remove from `model`, in place, what `PruneResult.removed` lists: the record of pruning another copy of it.

    Args:
        model: A model as the other was before it was pruned; weights may differ.
        example_inputs: As for `prune`.
        removed: Indices of outputs by layer.
        forward_fn: As for `prune`.

    Returns:
        `model`, or the module inside if it was compiled.

    Raises:
        CutError: The model has no such layers or outputs, or the indices are not all of what must go together; the
            model is as it was.
    """
    model = plain_model(model, inplace=True)
    first: CutError | None = None
    for whole_heads in (False, True):  # the record names outputs, which go in units of either kind
        couplings = map_couplings(model, example_inputs, forward_fn, whole_heads=whole_heads)
        try:
            cut(model, couplings, _channels_of(couplings, removed))
        except CutError as error:
            first = first or error
        else:
            return model
    assert first is not None
    raise first


def _channels_of(couplings: CouplingMap, removed: Mapping[str, Sequence[int]]) -> Tensor:
    """Numbers of the channels that a record names.

    Raises:
        CutError: It names what is not there, or not all of what must go together.
    """
    axes = {axis.layer: axis for axis in couplings.channels.axes if axis.role == "feed-in"}
    gone = couplings.channels.removed.clone()
    for layer, indices in removed.items():
        axis = axes.get(layer)
        if axis is None:
            raise CutError(f"The record cuts '{layer}', which this model lacks or does not use; replay it on a copy.")
        index = torch.as_tensor(indices, dtype=torch.long, device="cpu")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(axis.channels):
            raise CutError(f"The record cuts outputs of '{layer}' that are not there; it has {len(axis.channels)}.")
        gone[axis.channels[index]] = True
    found = removed_outputs(couplings, gone)
    for layer, indices in found.items():
        if sorted(removed.get(layer, ())) != list(indices):
            raise CutError(
                f"The record does not name all that goes together: of '{layer}' {len(indices)} outputs would go, and it "
                f"names {len(removed.get(layer, ()))}; it is of another model."
            )
    return (gone & ~couplings.channels.removed).nonzero().squeeze(1)
