"""Tell from the weights alone which channels a cut has left: what stays keeps its values and its order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dfpc_plugin.couplings.channels import Axis, Channels
from dfpc_plugin.errors import RepairError

__all__ = ["match_channels"]

_ALIKE = 1 - 1e-5
"""Cosine from which on two rows are the same up to a factor: attention's rows are scaled when its heads get narrower."""


def match_channels(channels: Channels, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
    """Return which channels are removed, `(channels,)` of bool.

    Dimensions of the same length have lost nothing. Of the others, slices are compared where all that was cut in the
    tensor's other dimensions is known by then, so channels are found in the order in which data flows. Dimensions that hold
    the same channels are compared together. Where slices are equal in everything that can be compared, the first are taken
    for those that stayed.

    Args:
        channels: Of the model before.
        before: Its parameters and buffers by path.
        after: Those of the pruned model, with as many dimensions.

    Raises:
        RepairError: The two do not match.
    """
    search = _Search(channels, before, after)
    for sure in (True, False):
        while search.step(sure):
            if not sure:
                while search.step(True):
                    pass
    if search.pending:
        axis = search.pending[0][0]
        raise RepairError(
            f"Which channels of '{axis.layer}' were cut cannot be told from its weights, which have changed since; pass what "
            f"was removed, as in PruneResult.removed, or repair before weights are trained."
        )
    return search.gone


class _Search:
    """Channels that are known by now to have stayed or gone.

    Attributes:
        gone: Which are removed, `(channels,)`.
        pending: Dimensions whose channels are not known, those with the same channels together.
    """

    def __init__(self, channels: Channels, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        self.gone = torch.zeros_like(channels.removed)
        self._known = torch.zeros_like(channels.removed)
        self._before, self._after = before, after
        self._by_tensor: dict[str, list[Axis]] = defaultdict(list)
        groups: dict[tuple[int, ...], list[Axis]] = defaultdict(list)
        for axis in channels.axes:
            self._by_tensor[axis.tensor].append(axis)
            if axis.groups == 1:
                groups[tuple(axis.channels.tolist())].append(axis)
        self.pending = [sorted(axes, key=lambda a: before[a.tensor].dim()) for axes in groups.values()]
        self.pending = [axes for axes in self.pending if not self._untouched(axes)]

    def _untouched(self, axes: Sequence[Axis]) -> bool:
        """Mark channels of a dimension that is as long as before."""
        axis = axes[0]
        if self._before[axis.tensor].shape[axis.dim] != self._after[axis.tensor].shape[axis.dim]:
            return False
        self._known[axis.channels] = True
        return True

    def step(self, sure: bool) -> bool:
        """Find the channels of one more dimension; with `sure`, only where there is no other way to match."""
        for number, axes in enumerate(self.pending):
            stayed = self._match(axes, sure)
            if stayed is not None:
                own = axes[0].channels
                self.gone[own[~stayed]] = True
                self._known[own] = True
                del self.pending[number]
                return True
        return False

    def _match(self, axes: Sequence[Axis], sure: bool) -> Tensor | None:
        """Which entries stayed, `(entries,)`, or None if that is not known."""
        own = axes[0].channels
        if self._known[own].all():
            return ~self.gone[own]
        possible: Tensor | None = None
        for axis in axes:
            slices = self._slices(axis)
            if slices is None:
                continue
            for same in _same(*slices):
                together = same if possible is None else possible & same
                if _leftmost(together) is not None:
                    possible = together
                    break
        if possible is None:
            return None
        known = self._known[own]
        possible = possible & ~(known & self.gone[own])
        first = _leftmost(possible)
        if first is None:
            return None
        last = possible.shape[1] - 1 - _leftmost(possible.flip(0, 1)).flip(0)  # type: ignore[union-attr]
        if sure and not torch.equal(first, last):
            return None
        stayed = torch.zeros(len(own), dtype=torch.bool)
        stayed[first] = True
        return stayed

    def _slices(self, axis: Axis) -> tuple[Tensor, Tensor] | None:
        """Slices before and after along a dimension, `(entries, values)`; None if the other dimensions are not known."""
        tensor, pruned = self._before[axis.tensor].detach(), self._after[axis.tensor].detach()
        for other in self._by_tensor[axis.tensor]:
            if other.dim == axis.dim:
                continue
            if other.groups > 1:
                if tensor.shape[other.dim] != pruned.shape[other.dim]:
                    return None
                continue
            if not self._known[other.channels].all():
                return None
            left = (~self.gone[other.channels]).nonzero().squeeze(1)
            tensor = tensor.index_select(other.dim, left.to(tensor.device))
        old, new = (t.movedim(axis.dim, 0).flatten(1) if t.dim() > 1 else t[:, None] for t in (tensor, pruned))
        return (old.cpu(), new.cpu()) if old.shape[1] == new.shape[1] else None


def _same(old: Tensor, new: Tensor) -> list[Tensor]:
    """Which slices are the same, `(after, before)`: exactly, and up to a factor."""
    numbers = torch.unique(torch.cat([old, new]), dim=0, return_inverse=True)[1]
    exact = numbers[len(old) :, None] == numbers[None, : len(old)]
    if old.shape[1] < 2:
        return [exact]
    old, new = (t.double() / t.double().norm(dim=1, keepdim=True).clamp_min(1e-300) for t in (old, new))
    return [exact, new @ old.t() > _ALIKE]


def _leftmost(possible: Tensor) -> Tensor | None:
    """The first place for every row, in order: indices of columns, or None if there are not enough."""
    result, start = [], 0
    for row in possible:
        places = row[start:].nonzero()
        if not len(places):
            return None
        start += int(places[0]) + 1
        result.append(start - 1)
    return torch.tensor(result, dtype=torch.long)
