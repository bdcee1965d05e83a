"""What it costs to remove channels one after the other, when those that are left stand in for each that goes."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.repairing.moments import LayerMoments
from dfpc_plugin.repairing.sensitivity import Sensitivity

__all__ = ["Reader", "elimination_costs", "readers_of"]

_ROUNDS = 64
_SPARSE = 8
"""One in so many entries has to be gone before the others are put together."""


class Reader:
    """A layer, or one group of a grouped one, that reads the units of a coupling.

    With C the covariance of a layer's inputs (and a ridge), P its inverse, and W its weights fitted to what is left by least
    squares, removing the entries b of a unit as well costs

        tr(W_b P_bb^-1 W_b')  =  tr(P_bb^-1 M_bb),  M = W' W

    of its squared output: the part of these entries that all others do not tell. With rows of W weighted by how much errors of
    the layer's outputs matter, it is what removing them costs at the outputs of the model. Removal takes W to W - W_b S and P to
    P - P_b' S, with S = P_bb^-1 P_b, so that M goes to M - M_b' S - S' M_b + S' M_bb S. (Hassibi and Stork, "Second order
    derivatives for network pruning: optimal brain surgeon", 1992, with the layer's own squared error for a loss.)
    """

    def __init__(
        self, gram: Tensor, covariance: Tensor, entries: Mapping[int, Sequence[int]], ridge: float, scale: float
    ) -> None:
        """Begin with everything there.

        Args:
            gram: M, `(entries, entries)` float64, which is changed; its diagonal where there are variances alone.
            covariance: `(entries, entries)`, or `(entries,)` variances of a layer in which nothing stands in.
            entries: Which entries go with each unit, by its number; units that it does not read are left out.
            ridge: In multiples of the mean variance.
            scale: What costs are multiplied by.
        """
        self._full = covariance.dim() == 2
        self._scale = gram.new_tensor(scale)
        self._number(entries, gram.device)
        if self._full:
            level = (ridge * covariance.diagonal().mean()).clamp_min(1e-30)
            unit = torch.eye(len(covariance), dtype=gram.dtype, device=gram.device)
            self._gram = gram
            self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance + level * unit))
            self._gone = torch.zeros(len(covariance), dtype=torch.bool, device=gram.device)
        else:
            self._alone = gram * covariance

    def _number(self, entries: Mapping[int, Sequence[int]], device: torch.device) -> None:
        """Lay out which entries go with which units, those of units with equally many together."""
        self._entries = {unit: list(own) for unit, own in entries.items()}
        self._blocks: list[tuple[Tensor, Tensor]] = []
        for size in sorted({len(own) for own in self._entries.values()}):
            units = [unit for unit, own in self._entries.items() if len(own) == size]
            numbers = torch.tensor([self._entries[unit] for unit in units], device=device)
            self._blocks.append((torch.tensor(units, device=device), numbers))

    def part(self, units: Sequence[int]) -> Reader:
        """A reader of a few units alone, numbered from zero, to see what removing some of them does to the others."""
        result, device = copy.copy(self), self._scale.device
        own = [self._entries.get(unit, []) for unit in units]
        index = torch.tensor([entry for entries in own for entry in entries], dtype=torch.long, device=device)
        starts = itertools.accumulate((len(entries) for entries in own), initial=0)
        pairs = enumerate(zip(starts, own, strict=False))
        result._number({n: range(start, start + len(entries)) for n, (start, entries) in pairs if entries}, device)
        if self._full:
            result._gram, result._inverse = self._gram[index][:, index], self._inverse[index][:, index]
            result._gone = self._gone[index]
        else:
            result._alone = self._alone[index]
        return result

    def add_costs(self, costs: Tensor) -> None:
        """Add, to `(units,)`, the share of the layer's squared output that removing each unit costs."""
        for units, entries in self._blocks:
            if not self._full:
                own = self._alone[entries].sum(1)
            elif entries.shape[1] == 1:
                which = entries[:, 0]
                own = self._gram.diagonal()[which] / (self._inverse.diagonal() + self._gone)[which]
            else:
                inside = entries[:, :, None], entries[:, None]
                blocks = self._inverse[inside] + torch.diag_embed(self._gone[entries].to(self._inverse))
                own = torch.linalg.solve(blocks, self._gram[inside]).diagonal(dim1=1, dim2=2).sum(1)
            costs.index_add_(0, units, (own * self._scale).to(costs))

    def remove(self, units: Sequence[int]) -> None:
        """Let units go, and the others stand in."""
        own = [entry for unit in units for entry in self._entries.get(unit, ())]
        if not own:
            return
        single = len(own) == 1  # as of nearly all units, and then there is nothing to solve
        index: Any = slice(own[0], own[0] + 1) if single else torch.tensor(own, device=self._scale.device)
        if not self._full:
            self._alone[index] = 0
            return
        rows, gram = self._inverse[index].clone(), self._gram[index].clone()
        share = rows / rows[:, index] if single else torch.linalg.solve(rows[:, index], rows)
        half = gram - gram[:, index] @ share / 2
        self._gram.addmm_(half.mT, share, alpha=-1).addmm_(share.mT, half, alpha=-1)
        self._inverse.addmm_(rows.mT, share, alpha=-1)
        for kept in (self._inverse, self._gram):
            kept[index] = 0
            kept[:, index] = 0
        self._gone[index] = True

    def compact(self) -> None:
        """Leave out what is gone, once that is much: all that is done costs the square of what is there."""
        if not self._full or int(self._gone.sum()) * _SPARSE < len(self._gone):
            return
        left = (~self._gone).nonzero().squeeze(1)
        self._gram, self._inverse, self._gone = self._gram[left][:, left], self._inverse[left][:, left], self._gone[left]
        numbers = {entry: number for number, entry in enumerate(left.tolist())}
        own = {unit: [numbers[e] for e in entries if e in numbers] for unit, entries in self._entries.items()}
        self._number({unit: entries for unit, entries in own.items() if entries}, left.device)


def elimination_costs(units: int, readers: Sequence[Reader], device: torch.device) -> Tensor:
    """Remove units one after the other, the cheapest first, and return what each has cost, `(units,)` float64.

    A unit always costs more than one that has gone before it, so that the order of the costs is that of removal. Where there
    are many units, some are taken aside at a time: among these the others are brought up to date after every one that goes,
    and the rest only when no more of these goes for less than the rest do.
    """
    result = torch.zeros(units, dtype=torch.float64, device=device)
    left = torch.ones(units, dtype=torch.bool, device=device)
    step, highest = max(1, units // _ROUNDS), 0.0
    while bool(left.any()):
        costs = _costs(units, readers, device)
        costs[~left] = torch.inf
        values, order = costs.sort(stable=True)
        aside = order[: min(step, int(left.sum()))]
        limit = float(values[len(aside)]) if len(aside) < units else torch.inf
        gone = []
        for unit, cost in _cheapest_of(aside.tolist(), readers, limit, device):
            highest = max(math.nextafter(highest, math.inf) if highest else 0.0, cost)
            result[unit] = highest
            gone.append(unit)
        left[gone] = False
        for reader in readers:
            reader.remove(gone)
            reader.compact()
    return result


def _costs(units: int, readers: Sequence[Reader], device: torch.device) -> Tensor:
    """What each unit would cost as the next to go."""
    costs = torch.zeros(units, dtype=torch.float64, device=device)
    for reader in readers:
        reader.add_costs(costs)
    return costs


def _cheapest_of(
    aside: list[int], readers: Sequence[Reader], limit: float, device: torch.device
) -> Iterator[tuple[int, float]]:
    """Yield units of a few with their costs, the cheapest first, as long as they cost no more than `limit`; one at least."""
    parts = [reader.part(aside) for reader in readers]
    left = torch.ones(len(aside), dtype=torch.bool, device=device)
    for number in range(len(aside)):
        costs = _costs(len(aside), parts, device)
        costs[~left] = torch.inf
        cost, chosen = costs.min(0)
        if number and float(cost) > limit:
            return
        yield aside[int(chosen)], float(cost)
        left[chosen] = False
        for part in parts:
            part.remove([int(chosen)])


def readers_of(
    moments: Sequence[LayerMoments],
    entries: Mapping[int, Sequence[int]],
    ridge: float,
    sensitivity: Sensitivity | None = None,
) -> list[Reader]:
    """One reader per matrix, and group of it, of a layer, from the input channels that go with each unit.

    Costs are shares of the outputs' variance: all of a layer's entries cost the layer's share, as far as they do not stand in
    for each other.

    Args:
        moments: The layer's.
        entries: The channels of every unit.
        ridge: In multiples of the mean variance.
        sensitivity: How much errors of the layer's outputs matter; by default all alike, and the layer's share is one.
    """
    matrices = [own.matrix for own in moments]
    if sensitivity is not None:
        matrices = _weighted(matrices, sensitivity.weights)
    covariances = [own.covariance for own in moments]  # (groups, channels, channels), or (groups, channels) variances
    grams = [
        matrix.mT @ matrix if covariance.dim() == 3 else matrix.square().sum(1)
        for matrix, covariance in zip(matrices, covariances, strict=True)
    ]
    whole = sum(float((gram * covariance).sum()) for gram, covariance in zip(grams, covariances, strict=True))
    scale = (1.0 if sensitivity is None else sensitivity.share) / max(whole, 1e-300)
    result = []
    for layer_gram, layer_covariance in zip(grams, covariances, strict=True):
        groups, channels = layer_covariance.shape[:2]
        own_entries = _by_group(entries, groups, channels)
        for gram, covariance, found in zip(layer_gram, layer_covariance, own_entries, strict=True):
            if found:
                result.append(Reader(gram, covariance, found, ridge, scale))
    return result


def _by_group(entries: Mapping[int, Sequence[int]], groups: int, channels: int) -> list[dict[int, list[int]]]:
    """Sort the input channels of units by the groups that read them, of so many channels each."""
    found: list[dict[int, list[int]]] = [{} for _ in range(groups)]
    for unit, own in entries.items():
        for channel in own:
            group, position = divmod(channel, channels)
            found[group].setdefault(unit, []).append(position)
    return found


def _weighted(matrices: list[Tensor], weights: Tensor) -> list[Tensor]:
    """Multiply rows by the roots of the weights of their outputs; as they are where outputs do not correspond to rows."""
    rows = [matrix.shape[0] * matrix.shape[1] for matrix in matrices]
    taps, rest = divmod(sum(rows), len(weights))
    if rest or any(own % taps for own in rows):
        return matrices
    parts = weights.clamp_min(0).sqrt().to(matrices[0]).repeat_interleave(taps).split(rows)
    return [matrix * part.view(*matrix.shape[:2], 1) for matrix, part in zip(matrices, parts, strict=True)]
