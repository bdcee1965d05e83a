"""Names of the outputs that pruning removes, as records list them, and how to find them again."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfpc_plugin.couplings.channels import Axis, Channels
from dfpc_plugin.couplings.find import CouplingMap


@dataclass(eq=False)
class RecordError(Exception):
    """A record names outputs that the model does not have.

    `width` is the number of outputs of the `layer`, None if the model has no such layer. `problem` says what is wrong with a
    record that lists no indices at all.
    """

    layer: str
    width: int | None
    problem: str = ""


def output_axes(channels: Channels) -> dict[str, Axis]:
    """Return the dimensions of weights that produce channels, by the name under which a record lists their outputs.

    The name is the layer's path. A weight used in both directions, as `F.linear(x, W)` and `F.linear(h, W.t())`, produces
    channels in two dimensions: the first that can be pruned has the layer's path, the other one the path with its dimension,
    "encoder (dim 1)".
    """
    written: dict[str, list[Axis]] = {}
    for axis in channels.axes:
        if axis.role == "feed-in":
            written.setdefault(axis.layer, []).append(axis)
    fixed = torch.zeros_like(channels.removed)
    fixed[torch.tensor(sorted(channels.reasons), dtype=torch.long, device="cpu")] = True
    found: dict[str, Axis] = {}
    for layer, axes in written.items():
        first = next((axis for axis in axes if not fixed[axis.channels].all()), axes[0])
        found |= {layer if axis is first else f"{layer} (dim {axis.dim})": axis for axis in axes}
    return found


def removed_outputs(channels: Channels, removed: Tensor) -> dict[str, tuple[int, ...]]:
    """List, for every layer, the indices of its outputs among the `removed` channels, `(channels,)` of bool."""
    found = {name: removed[axis.channels].nonzero().squeeze(1).tolist() for name, axis in output_axes(channels).items()}
    return {name: tuple(indices) for name, indices in found.items() if indices}


def channels_of_record(couplings: CouplingMap, removed: Mapping[str, Sequence[int]]) -> Tensor:
    """Find the channels that a record names, as `removed_outputs` returns it, in the `couplings` of a model before pruning.

    Returns the removed channels, `(channels,)` of bool; channels that no layer produces are removed with their units. Raises
    RecordError if the model has no such outputs.
    """
    known = couplings.channels
    axes = output_axes(known)
    gone = known.removed.clone()
    produced = torch.zeros_like(gone)
    for axis in axes.values():
        produced[axis.channels] = True
    if not isinstance(removed, Mapping):
        raise RecordError("", None, f"is a {type(removed).__name__}, not a dict of indices by layer")
    for layer, indices in removed.items():
        own = axes[layer].channels if layer in axes else None
        numbers = _numbers(layer, indices)
        if own is None or (numbers and not 0 <= min(numbers) <= max(numbers) < len(own)):
            raise RecordError(layer, None if own is None else len(own))
        gone[own[torch.tensor(numbers, dtype=torch.long, device="cpu")]] = True
    for coupling in couplings.couplings:
        named, counted = gone[coupling.blocks], produced[coupling.blocks]
        whole = (named | ~counted).all(0) & counted.any(0)
        gone[coupling.blocks[:, whole]] = True
    return gone


def _numbers(layer: str, indices: Sequence[int]) -> list[int]:
    """Convert indices to integers; raise RecordError if they are not."""
    try:
        return [operator.index(index) for index in indices]
    except TypeError:
        raise RecordError(
            layer, None, f"has {str(indices)[:60]!r} for '{layer}', which are no indices of outputs"
        ) from None
