"""Channel labels, and the forward's constraints on them.

Every index of every labelled axis of every parameter has a number, its label; 0 means no channel. Operators unite labels whose
channels must be pruned together, and freeze labels whose channels cannot be pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfpc_plugin.tracing.axes import first_along, listed, squeezed
from dfpc_plugin.tracing.sizes import Expression


@dataclass(frozen=True)
class Owner:
    """A labelled dimension of a parameter or buffer, which is named as in the state dict.

    `labels (groups * size,)` are consecutive; `shared` ones were made for another owner. `groups` is above one for the
    dimension of a grouped convolution's weight that holds one group's channels: the labels then run over all groups.
    """

    tensor: str
    dim: int
    groups: int
    labels: Tensor
    shared: bool = False


@dataclass(frozen=True)
class Sized:
    """A size that the forward requires: along `axis`, `labels` (squeezed) must keep `expression` elements.

    The expression is None where torch infers the size and rows only have to be equally long. Elements can be pruned along the
    axis `flexible`; the others index rows, which are pruned as a whole or keep equally many. `where` is for messages.
    """

    labels: Tensor
    axis: int
    expression: Expression | None
    flexible: int
    where: str


@dataclass(frozen=True)
class Rows:
    """`row[i]` is pruned exactly when all of `labels[i]` are, such as heads whose channels a matrix product has summed.

    `row` has the shape `(rows,)`, `labels` has `(rows, entries)`.
    """

    row: Tensor
    labels: Tensor
    where: str


@dataclass(frozen=True)
class Scaling:
    """Elements multiplied by a number that pruning changes, such as attention's queries by the root of a head's width.

    `labels` are the rows of weights, norms and biases that scale the elements; of a product, those of each factor; empty if no
    rows can compensate for the number. `power` is 1 if the elements are multiplied by `expression`, -1 if they are divided.
    """

    labels: tuple[Tensor, ...]
    expression: Expression
    power: int
    where: str = ""


@dataclass(frozen=True)
class Work:
    """One call of a layer or matrix product, with its MACs and the labels it sums over, those of its outputs, and all it uses.

    `factors` are labels with the names of their axes. The MACs are proportional to the number of combinations of positions
    along all named axes whose labels remain.
    """

    reads: Tensor
    writes: Tensor
    carried: Tensor
    macs: int
    factors: tuple[tuple[Tensor, tuple[int, ...]], ...] = ()


KERNEL_POSITION = "is a position of a kernel"
"""Why labels of a kernel's height and width stay, which are no channels."""


def fixed_by(where: str) -> str:
    """Return why channels combined with a tensor of fixed size are protected; `where`: "torch.conv2d in 'conv_stem'"."""
    name = where.partition(" ")[0].rpartition(".")[2]
    if name == "linear" or name.startswith("conv"):
        return f"is fixed by the input of {where}"
    if name in ("add", "add_", "__add__", "__radd__", "__iadd__"):
        return f"is added to a tensor of fixed size by {where}"
    return f"is combined with a tensor of fixed size in {where}"


class LabelTable:
    """The labels (`count`, label 0 included) and constraints of one pass: which labels are frozen, with the reason in batches."""

    def __init__(self) -> None:
        """Start with no labels."""
        self.owners: list[Owner] = []
        self.sizes: list[Sized] = []
        self.rows: list[Rows] = []
        self.frozen: list[tuple[Tensor, str]] = []
        self.count = 1
        self._pairs: list[tuple[Tensor, Tensor]] = []

    @property
    def notes(self) -> tuple[list, ...]:
        """All notes of operators, each in the order of the pass."""
        return self.sizes, self.rows, self.frozen, self._pairs

    def new(self, count: int) -> Tensor:
        """Hand out `count` consecutive labels."""
        labels = torch.arange(self.count, self.count + count, device="cpu")
        self.count += count
        return labels

    def own(self, tensor: str, dim: int, count: int, groups: int = 1) -> Tensor:
        """Hand out labels for a dimension of a parameter or buffer."""
        labels = self.new(count)
        self.owners.append(Owner(tensor, dim, groups, labels))
        return labels

    def share(self, tensor: str, dim: int, labels: Tensor) -> None:
        """Give another dimension labels that were handed out before."""
        self.owners.append(Owner(tensor, dim, 1, labels, shared=True))

    def unite(self, first: Tensor, second: Tensor, where: str) -> None:
        """Require that elements of two tensors of labels (which broadcast) are pruned together."""
        if first is second:
            return
        first, second = squeezed(first), squeezed(second)
        if first.shape != second.shape:
            first, second = torch.broadcast_tensors(first, second)
        first, second = first.reshape(-1), second.reshape(-1)
        if torch.equal(first, second) or not first.numel():
            return
        if not int(torch.minimum(first, second).min()):
            for one, other in ((first, second), (second, first)):
                if not other.all():
                    self.freeze(one[other == 0], fixed_by(where))
        self._pairs.append((first, second))

    def unite_along(self, labels: Tensor, axes: Sequence[int], where: str) -> Tensor:
        """Require that elements which differ only along `axes` are pruned together; returns the first of them."""
        first = first_along(labels, axes)
        self.unite(labels, first.expand(labels.shape), where)
        return first

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Require that no element is pruned."""
        self.frozen.append((listed(labels), reason))

    def roots(self) -> Tensor:
        """Return, for every label, the smallest label that it is pruned with, `(labels,)`."""
        if not self._pairs:
            return torch.arange(self.count, device="cpu")
        first, second = (torch.cat(side) for side in zip(*self._pairs, strict=True))
        apart = first != second
        if not int(torch.minimum(first.min(), second.min())):
            apart &= (first != 0) & (second != 0)
        real = apart.nonzero().squeeze(1)
        return _smallest_connected(first[real], second[real], self.count)


def _smallest_connected(first: Tensor, second: Tensor, count: int) -> Tensor:
    """The smallest node connected to each of `count` nodes, by edges between `first` and `second`."""
    parent = torch.arange(count, device="cpu")
    one, other = first, second
    while len(one):
        parent.scatter_reduce_(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
        while not torch.equal(grand := parent[parent], parent):
            parent = grand
        one, other = parent[first], parent[second]
        apart = (one != other).nonzero().squeeze(1)
        first, second, one, other = first[apart], second[apart], one[apart], other[apart]
    return parent
