"""Find the removed channels by comparing weights, which keep their values and their order where they remain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dfpc_plugin.couplings.channels import Axis, Channels
from dfpc_plugin.errors import RepairError

_ALIKE = 1 - 1e-5
"""Rows with at least this cosine are equal up to a factor: rows of queries are rescaled when heads get narrower."""


def match_channels(channels: Channels, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
    """Return which channels are removed, `(channels,)` of bool.

    A dimension that is as long as before has lost nothing. In the others, slices are compared once the removed channels
    of the tensor's other dimensions are known, so channels are found in the order in which data flows. Dimensions with
    the same channels are compared together. If several slices are equal, the first ones count as kept.

    `before` and `after` hold the parameters and buffers of the unpruned and the pruned model by path, with as many dimensions.

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
    """The state of the search.

    Attributes:
        gone: Which channels are known to be removed, `(channels,)`.
        pending: Dimensions whose channels are unknown, grouped by equal channels.
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
        """Mark the channels of a dimension that is as long as before."""
        axis = axes[0]
        if self._before[axis.tensor].shape[axis.dim] != self._after[axis.tensor].shape[axis.dim]:
            return False
        self._known[axis.channels] = True
        return True

    def step(self, sure: bool) -> bool:
        """Find the channels of one more dimension; with `sure`, only if the match is unique."""
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
        """Which entries remain, `(entries,)`; None if unknown."""
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
        """Slices before and after along a dimension, `(entries, values)`; None if the other dimensions are unknown."""
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
    """Which slices are equal, `(after, before)`: first exactly, then up to a factor."""
    numbers = torch.unique(torch.cat([old, new]), dim=0, return_inverse=True)[1]
    exact = numbers[len(old) :, None] == numbers[None, : len(old)]
    if old.shape[1] < 2:
        return [exact]
    old, new = (t.double() / t.double().norm(dim=1, keepdim=True).clamp_min(1e-300) for t in (old, new))
    return [exact, new @ old.t() > _ALIKE]


def _leftmost(possible: Tensor) -> Tensor | None:
    """The first column for every row, in increasing order; None if there are not enough."""
    result, start = [], 0
    for row in possible:
        places = row[start:].nonzero()
        if not len(places):
            return None
        start += int(places[0]) + 1
        result.append(start - 1)
    return torch.tensor(result, dtype=torch.long)
