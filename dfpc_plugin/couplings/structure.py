"""Which channels form a coupling, and in which units they can be pruned.

Channels in the same dimensions of the same parameters form a *bundle*. Bundles are tied where the forward requires sizes that
depend on both; a coupling is a set of tied bundles. Channels in it that must keep equal numbers (the heads of attention, the
groups of a convolution) form *blocks*; one channel from every block is a *unit*, the least that can be pruned.
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dfpc_plugin.couplings.channels import Channels, Size
from dfpc_plugin.tracing.sizes import Attribute, AxisSize, Expression, Operation, leaves_of

_WRAP = 2**64
"""Sums of marks wrap like torch's integers."""


@dataclass(frozen=True)
class Structure:
    """Channels that are pruned together, in cells (one bundle and block each); `balance`: operators that need equal blocks."""

    cells: tuple[Tensor, ...]
    balance: tuple[str, ...]

    @property
    def channels(self) -> Tensor:
        """All channels, in order."""
        return torch.cat(self.cells).sort().values

    def proportional(self) -> Tensor:
        """Units that keep all cells in proportion, `(blocks, units)`; their number is the gcd of the cell sizes."""
        units = math.gcd(*(len(cell) for cell in self.cells))
        return torch.cat([cell.view(-1, units) for cell in self.cells])

    def one_of_each(self) -> Tensor:
        """Units with one channel of every cell: `(cells, units)`; surplus channels of larger cells are unused."""
        units = min(len(cell) for cell in self.cells)
        return torch.stack([cell[:units] for cell in self.cells])


class Bundles:
    """Bundles of channels, with union-find over them."""

    def __init__(self, channels: Channels) -> None:
        """Group channels that lie in the same dimensions equally often and are equally protected."""
        count = len(channels.removed)
        generator = torch.Generator("cpu").manual_seed(0)
        marks = torch.randint(2**62, (len(channels.axes) + 1,), generator=generator, device="cpu")
        signature = torch.zeros(count, dtype=torch.long, device="cpu")
        if channels.axes:
            lengths = torch.tensor([axis.channels.numel() for axis in channels.axes], device="cpu")
            signature.index_add_(
                0, torch.cat([axis.channels for axis in channels.axes]), marks[:-1].repeat_interleave(lengths)
            )
        fixed = torch.tensor(sorted(channels.reasons), device="cpu")
        placed = signature != 0
        signature[fixed] += marks[-1]
        self.of = torch.full((count,), -1, device="cpu")
        self.of[placed] = torch.unique(signature[placed], return_inverse=True)[1]
        self.free = self.of.clone()
        self.free[fixed] = -1
        self._parent = list(range(int(self.of.max()) + 1))

    def __len__(self) -> int:
        """The number of bundles."""
        return len(self._parent)

    def root(self, bundle: int) -> int:
        """The representative of the tied bundles."""
        while self._parent[bundle] != bundle:
            self._parent[bundle] = self._parent[self._parent[bundle]]
            bundle = self._parent[bundle]
        return bundle

    def tie(self, bundles: Iterable[int]) -> None:
        """Make these bundles one coupling."""
        first, *others = (self.root(bundle) for bundle in bundles)
        for other in others:
            low, high = sorted((self.root(first), self.root(other)))
            self._parent[high] = low

    def tie_free(self, *channels: Tensor) -> None:
        """Tie the bundles of channels from several places, unless all channels of one place are protected."""
        found = [self.among(some) for some in channels]
        if all(found):
            self.tie([bundle for bundles in found for bundle in bundles])

    def among(self, channels: Tensor) -> list[int]:
        """Bundles of the channels that are not protected."""
        bundles = torch.unique(self.free[channels.reshape(-1)])
        return bundles[bundles >= 0].tolist()


def find_structure(channels: Channels) -> list[Structure]:
    """Tie bundles, split them into blocks, and arrange each coupling's channels in units."""
    bundles = Bundles(channels)
    blocks = torch.zeros(len(channels.removed), dtype=torch.long, device="cpu")
    balance: dict[int, dict[str, None]] = defaultdict(dict)
    _tie(channels, bundles, blocks, balance)
    members: dict[int, list[int]] = defaultdict(list)
    for bundle in range(len(bundles)):
        members[bundles.root(bundle)].append(bundle)
    order = torch.argsort(bundles.of, stable=True)
    starts = torch.searchsorted(bundles.of[order], torch.arange(len(bundles) + 1, device="cpu"))
    result = []
    for tied in members.values():
        own = torch.cat([order[starts[b] : starts[b + 1]] for b in tied])
        notes = tuple(dict.fromkeys(note for bundle in tied for note in balance[bundle]))
        result.append(_structure(own, bundles, blocks, notes))
    return sorted(result, key=lambda structure: int(structure.cells[0][0]))


def _structure(own: Tensor, bundles: Bundles, blocks: Tensor, notes: tuple[str, ...]) -> Structure:
    """Split channels into cells: channels of the same bundle and block."""
    own = own.sort().values
    keys = bundles.of[own] * 1_000_003 + blocks[own]
    order = torch.argsort(keys, stable=True)
    cells = own[order].split(torch.unique_consecutive(keys[order], return_counts=True)[1].tolist())
    return Structure(tuple(sorted(cells, key=lambda cell: int(cell[0]))), notes if len(cells) > 1 else ())


def _tie(channels: Channels, bundles: Bundles, blocks: Tensor, balance: dict[int, dict[str, None]]) -> None:
    """Tie bundles that depend on each other through required sizes, and tell blocks apart."""
    marks = torch.randint(
        2**62, (len(channels.removed),), generator=torch.Generator("cpu").manual_seed(1), device="cpu"
    )
    seen: set[int] = set()
    users: dict[Attribute, dict[int, Size]] = defaultdict(dict)
    for size in channels.sizes:
        if not size.along_rows:
            _tell_rows_apart(size, bundles, blocks, balance, marks, seen)
            _tell_parts_apart(size, channels, bundles, blocks, marks)
        counted = _mark(size, marks)
        if counted is not None and counted == _mark_of(size.expression, channels, marks):
            continue  # a sum of sizes of exactly the channels that it counts, as after a concatenation
        for leaf in leaves_of(size.expression):
            if isinstance(leaf, AxisSize):
                read = channels.leaves[leaf]
                if not read.along_rows and marks[read.channels].sum() != marks[size.channels].sum():
                    bundles.tie_free(size.channels, read.channels)
            elif isinstance(leaf, Attribute) and not size.along_rows:
                users[leaf][int(marks[size.channels].sum())] = size
    for by_count in users.values():
        if len(by_count) > 1:  # sets of channels that share an attribute stay equal in size
            bundles.tie_free(*(size.channels for size in by_count.values()))


def _tell_parts_apart(size: Size, channels: Channels, bundles: Bundles, blocks: Tensor, marks: Tensor) -> None:
    """Make the part of a bundle that a slice ends behind a cell, if its size is fixed or computed from the whole."""
    leaves = list(leaves_of(size.expression))
    wholes = [channels.leaves[leaf] for leaf in leaves if isinstance(leaf, AxisSize)]
    if size.expression is None or (leaves and not wholes):  # an attribute alone can change
        return
    part = torch.unique(size.channels)
    if len(size.channels) == 1 and all(_holds_more(whole, part) for whole in wholes):
        involved = bundles.among(part)
        if any(bool((bundles.of == bundle).sum() > (bundles.of[part] == bundle).sum()) for bundle in involved):
            blocks[part] = (blocks[part] * 31 + int(marks[part].sum())) % (2**61 - 1)


def _holds_more(whole: Size, part: Tensor) -> bool:
    """Whether a size counts all channels of a part, and others."""
    counted = torch.unique(whole.channels)
    return len(counted) > len(part) and bool(torch.isin(part, counted).all())


def _mark_of(expression: Expression, channels: Channels, marks: Tensor) -> int | None:
    """The mark of all channels that a sum of sizes counts; None for any other expression."""
    if isinstance(expression, AxisSize):
        return _mark(channels.leaves[expression], marks)
    if isinstance(expression, Operation) and expression.function in (operator.add, operator.sub):
        parts = [_mark_of(operand, channels, marks) for operand in expression.operands]
        return None if None in parts else expression.function(*parts) % _WRAP
    return expression * int(marks[0]) % _WRAP if isinstance(expression, int) else None


def _mark(size: Size, marks: Tensor) -> int | None:
    """The mark of a single row of channels; None for several rows."""
    return None if size.along_rows or len(size.channels) != 1 else int(marks[size.channels].sum()) % _WRAP


def _tell_rows_apart(
    size: Size, bundles: Bundles, blocks: Tensor, balance: dict[int, dict[str, None]], marks: Tensor, seen: set[int]
) -> None:
    """Make rows of different channels that must stay equally long blocks of one coupling."""
    if size.channels.size(0) == 1 or (size.channels == size.channels[:, :1]).all():
        return  # one row, or rows that are pruned as a whole
    first: dict[int, int] = {}
    for position, mark in enumerate(marks[size.channels].sum(1).tolist()):
        first.setdefault(mark, position)
    involved = bundles.among(size.channels)
    if len(first) == 1 or not involved:
        return
    bundles.tie(involved)
    for bundle in involved:
        balance[bundle][f"{len(first)} rows in {size.where}"] = None
    for mark, position in first.items():
        if mark not in seen:
            seen.add(mark)
            own = torch.unique(size.channels[position])
            blocks[own] = (blocks[own] * 31 + mark) % (2**61 - 1)
