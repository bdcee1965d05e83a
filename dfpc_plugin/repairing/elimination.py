"""What it costs to remove channels one after the other, when those that are left replace each that goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dfpc_plugin.repairing.moments import LayerMoments
from dfpc_plugin.repairing.sensitivity import Sensitivity

__all__ = ["Reader", "elimination_costs", "readers_of"]

_ROUNDS = 64
_SPARSE = 8
"""One in so many entries has to be removed before the others are put together."""


class Reader:
    """A layer, or one group of a grouped one, that reads the units of a coupling.

    With C the covariance of a layer's inputs (and a ridge), P its inverse, and W its weights fitted to what remains by least
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
            gram: M, `(entries, entries)`, which is changed; its diagonal where there are variances alone.
            covariance: `(entries, entries)`, or `(entries,)` variances of a layer in which nothing stands in.
            entries: Which entries go with each unit, by its number; units that it does not read are left out.
            ridge: In multiples of the mean variance.
            scale: What costs are multiplied by.
        """
        self._full = covariance.dim() == 2
        self._scale, self._device = scale, gram.device
        self._number(entries)
        if self._full:
            level = (ridge * covariance.diagonal().mean()).clamp_min(1e-30)
            unit = torch.eye(len(covariance), dtype=gram.dtype, device=gram.device)
            self._gram = gram
            self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance + level * unit))
            self._gone = torch.zeros(len(covariance), dtype=torch.bool, device=gram.device)
        else:
            self._alone = gram * covariance

    def _number(self, entries: Mapping[int, Sequence[int]]) -> None:
        """Lay out which entries go with which units, those of units with equally many together."""
        self._entries = {unit: list(own) for unit, own in entries.items()}
        self._blocks: list[tuple[Tensor, Tensor]] = []
        for size in sorted({len(own) for own in self._entries.values()}):
            units = [unit for unit, own in self._entries.items() if len(own) == size]
            numbers = torch.tensor([self._entries[unit] for unit in units], device=self._device)
            self._blocks.append((torch.tensor(units, device=self._device), numbers))

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
            costs.index_add_(0, units, own.to(costs) * self._scale)

    def add_costs_in_turn(self, units: Sequence[int], costs: Tensor) -> None:
        """Add, to `(len(units),)`, what each of some units costs after those before it have been removed.

        With P_bb = L L' for all their entries b in this order, the entries cost the diagonal of L^-1 M_bb L^-T: row i of L^-1 is
        the part of entry i that those before it do not tell.
        """
        pairs = [(turn, entry) for turn, unit in enumerate(units) for entry in self._entries.get(unit, ())]
        if not pairs:
            return
        turns, entries = torch.tensor(pairs, device=self._device).unbind(1)
        if self._full:
            lower = torch.linalg.cholesky(self._inverse[entries][:, entries])
            half = torch.linalg.solve_triangular(lower, self._gram[entries][:, entries], upper=False)
            own = torch.linalg.solve_triangular(lower, half.mT, upper=False).diagonal()
        else:
            own = self._alone[entries]
        costs.index_add_(0, turns, own.to(costs) * self._scale)

    def remove(self, units: Sequence[int]) -> None:
        """Let units go, and the others stand in."""
        own = [entry for unit in units for entry in self._entries.get(unit, ())]
        if not own:
            return
        index = torch.tensor(own, device=self._device)
        if not self._full:
            self._alone[index] = 0
            return
        rows, gram = self._inverse[index], self._gram[index]
        share = torch.linalg.solve(rows[:, index], rows)
        half = gram - gram[:, index] @ share / 2
        self._gram.addmm_(half.mT, share, alpha=-1).addmm_(share.mT, half, alpha=-1)
        self._inverse.addmm_(rows.mT, share, alpha=-1)
        for kept in (self._inverse, self._gram):
            kept[index] = 0
            kept[:, index] = 0
        self._gone[index] = True

    def compact(self) -> None:
        """Leave out what is removed, once that is much: all that is done costs the square of what is there."""
        if not self._full or int(self._gone.sum()) * _SPARSE < len(self._gone):
            return
        left = (~self._gone).nonzero().squeeze(1)
        self._gram, self._inverse, self._gone = (
            self._gram[left][:, left],
            self._inverse[left][:, left],
            self._gone[left],
        )
        numbers = {entry: number for number, entry in enumerate(left.tolist())}
        own = {unit: [numbers[e] for e in entries if e in numbers] for unit, entries in self._entries.items()}
        self._number({unit: entries for unit, entries in own.items() if entries})


def elimination_costs(units: int, readers: Sequence[Reader], device: torch.device) -> Tensor:
    """Remove units one after the other, the cheapest first, and return what each has cost, `(units,)` float64.

    A unit always costs more than one that has been removed before it, so that the order of the costs is that of removal. Where there
    are many units, some go at a time: of the cheapest, those that still cost no more than the rest after the ones before them
    have been removed.
    """
    result = torch.zeros(units, dtype=torch.float64, device=device)
    left = torch.ones(units, dtype=torch.bool, device=device)
    step, highest = max(1, units // _ROUNDS), 0.0
    while bool(left.any()):
        costs = torch.zeros(units, dtype=torch.float64, device=device)
        for reader in readers:
            reader.add_costs(costs)
        costs[~left] = torch.inf
        values, order = costs.sort(stable=True)
        count = min(step, int(left.sum()))
        going = order[:count].tolist()
        own = _costs_in_turn(going, readers, device)
        if count < units:
            own[0] = -torch.inf  # one at least
            going = [unit for unit, goes in zip(going, (own <= values[count]).tolist(), strict=True) if goes]
            own = _costs_in_turn(going, readers, device)
        for unit, cost in zip(going, own.tolist(), strict=True):
            highest = max(math.nextafter(highest, math.inf) if highest else 0.0, cost)
            result[unit] = highest
        left[going] = False
        for reader in readers:
            reader.remove(going)
            reader.compact()
    return result


def _costs_in_turn(units: Sequence[int], readers: Sequence[Reader], device: torch.device) -> Tensor:
    """What each of some units costs after those before it have been removed, `(len(units),)`."""
    costs = torch.zeros(len(units), dtype=torch.float64, device=device)
    for reader in readers:
        reader.add_costs_in_turn(units, costs)
    return costs


def readers_of(
    moments: Sequence[LayerMoments],
    entries: Mapping[int, Sequence[int]],
    ridge: float,
    sensitivity: Sensitivity | None = None,
) -> list[Reader]:
    """One reader per matrix, and group of it, of a layer, from the input channels that go with each unit.

    Costs are shares of the outputs' variance: all of a layer's entries cost the layer's share, as far as they cannot replace
    each other. A layer whose inputs do not vary has no reader.

    Args:
        moments: The layer's.
        entries: The channels of every unit.
        ridge: In multiples of the mean variance.
        sensitivity: How much errors of the layer's outputs matter; by default all alike, and the layer's share is one.
    """
    matrices = _single([own.matrix for own in moments])
    if sensitivity is not None:
        matrices = _weighted(matrices, sensitivity.weights)
    covariances = _single(
        [own.covariance for own in moments]
    )  # (groups, channels, channels), or (groups, channels) variances
    grams = [
        matrix.mT @ matrix if covariance.dim() == 3 else matrix.square().sum(1)
        for matrix, covariance in zip(matrices, covariances, strict=True)
    ]
    whole = sum(float((gram * covariance).sum()) for gram, covariance in zip(grams, covariances, strict=True))
    if not whole > 0:
        return []
    scale = (1.0 if sensitivity is None else sensitivity.share) / whole
    result = []
    for layer_gram, layer_covariance in zip(grams, covariances, strict=True):
        groups, channels = layer_covariance.shape[:2]
        own_entries = _by_group(entries, groups, channels)
        for gram, covariance, found in zip(layer_gram, layer_covariance, own_entries, strict=True):
            if found:
                result.append(Reader(gram, covariance, found, ridge, scale))
    return result


def _single(tensors: list[Tensor]) -> list[Tensor]:
    """Divide by the largest number of all and go to float32: twice as fast as float64, and exact enough with a ridge."""
    largest = max(float(own.abs().max()) for own in tensors) or 1.0
    return [(own / largest).float() for own in tensors]


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
