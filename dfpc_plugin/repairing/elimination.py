"""The cost of removing channels one by one, while the remaining channels compensate for each removed one.

The removals run on the CPU: on a GPU, their many small steps would take longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import Bounds
from dfpc_plugin.repairing.moments import LayerMoments

_ROUNDS = 32
_WAITING = 32
"""Updates are applied once one in this many entries is removed: few large ones cost less than many small ones."""
_SPARSE = 8
"""Removed entries are dropped from the matrices once they are one in this many."""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """The sensitivity of the model's outputs to one layer, summed over its calls.

    Attributes:
        weights: `(outputs,)`, float64: the change of the model outputs, as a share of their variance, per variance of
            each output, summed over positions.
        share: The share that passes through the layer in total.
    """

    weights: Tensor
    share: float


def sensitivities(bounds: Bounds) -> dict[str, Sensitivity]:
    """Return every layer's sensitivity by name, from the flow `variances to outputs`; see `bgsc`'s ranking `output`."""
    found: dict[str, Sensitivity] = {}
    for writer, gradient in zip(bounds.writers, bounds.output_shares(), strict=False):
        if gradient is None:
            continue
        weights, share = writer.per_channel(gradient), float((gradient * writer.leaf.detach()).sum())
        before = found.get(writer.name)
        if before is not None:
            weights, share = weights + before.weights, share + before.share
        found[writer.name] = Sensitivity(weights, share)
    return found


class Reader:
    """A layer, or one group of it, that reads the units of a coupling; its inputs do not compensate for each other."""

    def __init__(self, gram: Tensor, covariance: Tensor, entries: Mapping[int, Sequence[int]], scale: float) -> None:
        """Begin with all units; `entries` has those of each unit that the layer reads, by its number.

        `gram` is the diagonal of W' W, `(entries,)`, where W are the layer's weights, its rows weighted by how much
        errors matter; `covariance` are the variances, `(entries,)`. Costs are multiplied by `scale`.
        """
        self._scale, self._entries = scale, entries
        pairs = [(unit, entry) for unit, own in entries.items() for entry in own]
        self._pairs = torch.tensor(pairs, device="cpu").unbind(1)
        self._alone = (gram * covariance).cpu()

    def add_costs(self, costs: Tensor) -> None:
        """Add the cost of removing each unit, as a share of the layer's squared output, to `costs`, `(units,)`."""
        units, entries = self._pairs
        costs.index_add_(0, units, self._alone[entries].to(costs) * self._scale)

    def add_costs_in_turn(self, units: Sequence[int], costs: Tensor) -> None:
        """Add to `costs`, `(len(units),)`, the cost of each of `units` after those before it are removed."""
        pairs = [(turn, entry) for turn, unit in enumerate(units) for entry in self._entries.get(unit, ())]
        if pairs:
            turns, entries = torch.tensor(pairs, device="cpu").unbind(1)
            costs.index_add_(0, turns, self._costs_in_turn(entries).to(costs) * self._scale)

    def remove(self, units: Sequence[int]) -> None:
        """Remove units."""
        own = [entry for unit in units for entry in self._entries.get(unit, ())]
        if own:
            self._remove(torch.tensor(own, device="cpu"))

    def _costs_in_turn(self, entries: Tensor) -> Tensor:
        """The cost of each entry after those before it are removed."""
        return self._alone[entries]

    def _remove(self, entries: Tensor) -> None:
        self._alone[entries] = 0


class StandingInReader(Reader):
    """A reader whose inputs compensate for each other, as far as they are correlated.

    Let C be the covariance of a layer's inputs (plus a ridge), P its inverse, and W the weights, fitted to the
    remaining inputs by least squares. Removing the entries b of one more unit then adds

        tr(W_b P_bb^-1 W_b')  =  tr(P_bb^-1 M_bb),  M = W' W

    to the squared error of the output: the part of these entries that the others cannot predict. If the rows of W are
    weighted by how much errors of the layer's outputs matter, this is the cost at the outputs of the model. With S =
    P_bb^-1 P_b and H = M_b - M_bb S / 2, removal changes W to W - W_b S, P to P - P_b' S, and M to M - H' S - S' H.
    (Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon", 1992, with the layer's
    own squared error as the loss.)
    """

    def __init__(
        self, gram: Tensor, covariance: Tensor, entries: Mapping[int, Sequence[int]], scale: float, ridge: float
    ) -> None:
        """Begin as `Reader`, with full matrices, `(entries, entries)`; `ridge` is in multiples of the mean variance."""
        super().__init__(gram.diagonal(), covariance.diagonal(), entries, scale)
        level = (ridge * covariance.diagonal().mean()).clamp_min(1e-30)
        unit = torch.eye(len(covariance), dtype=gram.dtype, device=gram.device)
        self._gram = gram.cpu()
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance + level * unit)).cpu()
        sizes = sorted({len(own) for own in entries.values()})
        equal = ({unit: own for unit, own in entries.items() if len(own) == size} for size in sizes)
        self._units = [_Units(own, self._inverse, self._gram) for own in equal]
        self._places = torch.arange(len(gram), device="cpu")  # the row of each entry in the matrices
        self._gone = torch.zeros(len(gram), dtype=torch.bool, device="cpu")
        self._waiting = (self._gram.new_zeros(0, len(gram)),) * 3  # P_b, S and H of removed entries

    def add_costs(self, costs: Tensor) -> None:
        """Add the cost of removing each unit, as a share of the layer's squared output, to `costs`, `(units,)`."""
        for units in self._units:
            units.add_costs(costs, self._scale)

    def _costs_in_turn(self, entries: Tensor) -> Tensor:
        """The cost of each entry after those before it are removed.

        With P_bb = L L', it is the diagonal of L^-1 M_bb L^-T: row i of L^-1 is the part of entry i that earlier ones
        cannot predict.
        """
        index = self._places[entries]
        inverse, gram = self._rows(index, index)
        lower = torch.linalg.cholesky(inverse)
        half = torch.linalg.solve_triangular(lower, gram, upper=False)
        return torch.linalg.solve_triangular(lower, half.mT, upper=False).diagonal()

    def _rows(self, index: Tensor, columns: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Rows of P and M, at some of their columns."""
        rows = index[:, None] if isinstance(columns, Tensor) else index
        inverse, gram = self._inverse[rows, columns], self._gram[rows, columns]
        if len(self._waiting[0]):
            rows, share, half = (own[:, index].mT for own in self._waiting)
            _, shares, halves = (own[:, columns] for own in self._waiting)
            inverse -= rows @ shares
            gram -= half @ shares + share @ halves
        return inverse, gram

    def _remove(self, entries: Tensor) -> None:
        index = self._places[entries]
        rows, gram = self._rows(index)
        share = torch.linalg.solve(rows[:, index], rows)
        change = rows, share, gram - gram[:, index] @ share / 2
        self._gone[index] = True
        for units in self._units:
            units.update(change, self._gone)
        first, second, third = (torch.cat(pair) for pair in zip(self._waiting, change, strict=True))
        self._waiting = first, second, third
        if len(first) * _WAITING >= len(self._gone):
            self._update()

    def _update(self) -> None:
        """Apply the pending updates, and drop removed entries once there are many."""
        rows, share, half = self._waiting
        self._inverse.addmm_(rows.mT, share, alpha=-1)
        self._gram.addmm_(half.mT, share, alpha=-1).addmm_(share.mT, half, alpha=-1)
        if int(self._gone.sum()) * _SPARSE >= len(self._gone):
            left = (~self._gone).nonzero().squeeze(1)
            self._inverse, self._gram = (own[left][:, left] for own in (self._inverse, self._gram))
            places = torch.full_like(self._gone, -1, dtype=torch.long)
            places[left] = torch.arange(len(left), device="cpu")
            self._places = torch.where(self._places < 0, -1, places[self._places])
            for units in self._units:
                units.renumber(places)
            self._gone = self._gone[left]
        self._waiting = (self._gram.new_zeros(0, len(self._gram)),) * 3


class _Units:
    """Units with the same number of entries in a layer, with P_bb and M_bb of each, `(units, size, size)`."""

    def __init__(self, entries: Mapping[int, Sequence[int]], inverse: Tensor, gram: Tensor) -> None:
        self._units = torch.tensor(list(entries), device="cpu")
        self._entries = torch.tensor([list(own) for own in entries.values()], device="cpu")
        inside = self._entries[:, :, None], self._entries[:, None]
        self._inverse, self._gram = inverse[inside], gram[inside]

    def add_costs(self, costs: Tensor, scale: float) -> None:
        alone = self._entries.shape[1] == 1
        own = self._gram / self._inverse if alone else torch.linalg.solve(self._inverse, self._gram)
        costs.index_add_(0, self._units, own.diagonal(dim1=1, dim2=2).sum(1).to(costs) * scale)

    def update(self, change: Sequence[Tensor], gone: Tensor) -> None:
        """Change the blocks as P and M change. Removed units get identity blocks, so that the batched solve works."""
        rows, share, half = (own[:, self._entries] for own in change)
        self._inverse -= torch.einsum("rui,ruj->uij", rows, share)
        crossed = torch.einsum("rui,ruj->uij", half, share)
        self._gram -= crossed + crossed.mT
        unit = torch.eye(self._entries.shape[1], dtype=rows.dtype, device="cpu")
        self._inverse[gone[self._entries[:, 0]]] = unit

    def renumber(self, places: Tensor) -> None:
        """Drop removed units, and renumber the entries of the others."""
        entries = places[self._entries]
        there = entries[:, 0] >= 0
        self._units, self._entries = self._units[there], entries[there]
        self._inverse, self._gram = self._inverse[there], self._gram[there]


def elimination_costs(units: int, readers: Sequence[Reader]) -> Tensor:
    """Remove units one after the other, the cheapest first, and return the cost of each, `(units,)` float64.

    Costs do not decrease from one removal to the next, so their order is that of removal. With many units, several are
    removed at a time: those of the cheapest that, after the ones before them are removed, still cost no more than the
    next unit.
    """
    result = torch.zeros(units, dtype=torch.float64, device="cpu")
    left = torch.ones(units, dtype=torch.bool, device="cpu")
    step, highest = max(1, units // _ROUNDS), 0.0
    while bool(left.any()):
        costs = torch.zeros(units, dtype=torch.float64, device="cpu")
        for reader in readers:
            reader.add_costs(costs)
        costs[~left] = torch.inf
        values, order = costs.sort(stable=True)
        count = min(step, int(left.sum()))
        going = order[:count].tolist()
        own = _costs_in_turn(going, readers)
        if count < units:
            own[0] = -torch.inf  # at least one is removed
            going = [unit for unit, goes in zip(going, (own <= values[count]).tolist(), strict=True) if goes]
            own = _costs_in_turn(going, readers)
        for unit, cost in zip(going, own.tolist(), strict=True):
            highest = max(math.nextafter(highest, math.inf) if highest else 0.0, cost)
            result[unit] = highest
        left[going] = False
        for reader in readers:
            reader.remove(going)
    return result


def _costs_in_turn(units: Sequence[int], readers: Sequence[Reader]) -> Tensor:
    costs = torch.zeros(len(units), dtype=torch.float64, device="cpu")
    for reader in readers:
        reader.add_costs_in_turn(units, costs)
    return costs


def readers_of(
    moments: Sequence[LayerMoments],
    entries: Mapping[int, Sequence[int]],
    ridge: float,
    sensitivity: Sensitivity | None = None,
) -> list[Reader]:
    """The readers of a layer: one for every matrix, and every group of it; none if its inputs do not vary.

    `entries` are the input channels of every unit, and the ridge is in multiples of the mean variance. Costs are shares
    of the outputs' variance: without compensation, all entries together cost the layer's share, which is one if there
    is no `sensitivity`.
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
    result: list[Reader] = []
    for layer_gram, layer_covariance in zip(grams, covariances, strict=True):
        groups, channels = layer_covariance.shape[:2]
        own_entries = _by_group(entries, groups, channels)
        for gram, covariance, found in zip(layer_gram, layer_covariance, own_entries, strict=True):
            if found:
                if covariance.dim() == 2:
                    result.append(StandingInReader(gram, covariance, found, scale, ridge))
                else:
                    result.append(Reader(gram, covariance, found, scale))
    return result


def _single(tensors: list[Tensor]) -> list[Tensor]:
    """Divide by the largest entry and convert to float32: twice as fast as float64, and exact enough with a ridge."""
    largest = max(float(own.abs().max()) for own in tensors) or 1.0
    return [(own / largest).float() for own in tensors]


def _by_group(entries: Mapping[int, Sequence[int]], groups: int, channels: int) -> list[dict[int, list[int]]]:
    """Split the input channels of units by group, each of `channels` channels."""
    found: list[dict[int, list[int]]] = [{} for _ in range(groups)]
    for unit, own in entries.items():
        for channel in own:
            group, position = divmod(channel, channels)
            found[group].setdefault(unit, []).append(position)
    return found


def _weighted(matrices: list[Tensor], weights: Tensor) -> list[Tensor]:
    """Multiply rows by the square roots of their outputs' weights; unchanged if outputs do not correspond to rows."""
    rows = [matrix.shape[0] * matrix.shape[1] for matrix in matrices]
    taps, rest = divmod(sum(rows), len(weights))
    if rest or any(own % taps for own in rows):
        return matrices
    parts = weights.clamp_min(0).sqrt().to(matrices[0]).repeat_interleave(taps).split(rows)
    return [matrix * part.view(*matrix.shape[:2], 1) for matrix, part in zip(matrices, parts, strict=True)]
