"""The channels of a model: sets of united labels, and where each of them lies.

A *channel* is a set of labels that operators have united: one index of every parameter it passes through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfpc_plugin.analyses.channels import ChannelTrace
from dfpc_plugin.analyses.table import Sized, Work
from dfpc_plugin.analyses.width_attributes import StatedWidth
from dfpc_plugin.tracing.sizes import Attribute, AxisSize, Expression, leaves_of


@dataclass(frozen=True, eq=False)
class Dimension:
    """A labelled dimension `dim` of a parameter or buffer, `tensor`, which is named as in the state dict.

    `groups` is above one where the dimension holds one group's channels of a grouped convolution. `role`: "feed-in" where a
    layer writes channels, "feed-out" where it reads them, "transform" elsewhere.
    """

    tensor: str
    dim: int
    groups: int
    role: str

    @property
    def layer(self) -> str:
        """Path of the layer that owns the tensor."""
        return self.tensor.removesuffix(".weight")


@dataclass(frozen=True, eq=False)
class Axis(Dimension):
    """A dimension with the channel at each index, `channels (groups * size,)`."""

    channels: Tensor

    def entries(self, rows: int) -> tuple[Tensor, tuple[int, ...]]:
        """The channels of the entries of the tensor, which has so many rows, and the dimensions along which they vary."""
        if self.groups == 1:
            return self.channels, (self.dim,)
        # each group's rows have their own inputs
        return self.channels.view(self.groups, -1).repeat_interleave(rows // self.groups, 0), (0, self.dim)

    def positions(self, channels: Tensor, removed: Tensor) -> Tensor:
        """Find the positions of units, given as `channels (blocks, units)`, without the `removed` channels, `(channels,)` of bool.

        Returns `(units, indices per unit)`, each row in ascending order; no columns if the dimension holds none of them.
        """
        unit = torch.full(removed.shape, -1, device="cpu")
        unit[channels] = torch.arange(channels.size(1), device="cpu").expand(channels.shape)
        of = unit[self.channels[~removed[self.channels]]]
        found = (of >= 0).nonzero().squeeze(1)
        return found[torch.argsort(of[found], stable=True)].view(channels.size(1), -1)


@dataclass(frozen=True)
class Size:
    """A size that the forward requires, computed by `expression`; None where rows only have to be equally long.

    `channels` is `(rows, entries)` along the flexible axis, or `(positions, entries)` of another axis; then the size is the
    number of remaining rows (`along_rows`), not of entries in each.
    """

    channels: Tensor
    along_rows: bool
    expression: Expression | None
    where: str


@dataclass(frozen=True)
class Layer:
    """One call of a layer or matrix product: all its channels, and the pass's note with its MACs before pruning."""

    channels: Tensor
    work: Work

    @property
    def macs(self) -> int:
        """MACs before pruning."""
        return self.work.macs


@dataclass(frozen=True)
class Scale:
    """A number that depends on widths, and the rows of weights and biases whose results it multiplies (divides, for power -1).

    `rows` are indices per position of a labelled dimension in `Channels.axes`.
    """

    expression: Expression
    power: int
    rows: dict[int, Tensor]


@dataclass
class Channels:
    """What a pass has found about a model's channels.

    Attributes:
        axes: Labelled dimensions.
        sizes: Sizes that the forward requires.
        layers: Layers with their MACs.
        reasons: Why channels are protected, by channel.
        removed: Which channels have been pruned, `(channels,)`.
        leaves: Sizes read from shapes, in terms of channels.
        scales: Numbers that depend on widths and multiply the results of some rows of weights.
        heads: Which channels are whole attention heads, `(channels,)`.
        numbers: The channel of every label, `(labels,)`.
        parameters: Shapes of the model's parameters by path, before pruning.
        outputs: Shapes of the tensors that the model returns.
        stated: Widths that the model states in attributes which its forward does not use.
        values: Attributes of modules that pruning has changed, with their new values.
        asked: Attributes, `(module, name)`, that sizes and factors of the forward are computed from.
        unscaled: Numbers that depend on widths and that no rows can compensate for, by operator.
    """

    axes: list[Axis]
    sizes: list[Size]
    layers: list[Layer]
    reasons: dict[int, str]
    removed: Tensor
    leaves: dict[AxisSize, Size]
    scales: list[Scale]
    heads: Tensor
    numbers: Tensor
    parameters: dict[str, torch.Size]
    outputs: list[torch.Size]
    stated: list[StatedWidth]
    values: dict[Attribute, int] = field(default_factory=dict)
    asked: frozenset[tuple[str, str]] = frozenset()
    unscaled: dict[str, list[Expression]] = field(default_factory=dict)


def channels_of(run: ChannelTrace, *, whole_heads: bool = False) -> Channels:
    """Translate a pass's notes about labels into channels; with `whole_heads`, a head's channels are pruned together."""
    table = run.table
    heads = [rows for rows in table.rows if whole_heads and "conv" not in rows.where]
    for rows in heads:
        table.unite(rows.row[:, None], rows.labels, rows.where)
    roots = _with_rows(run)
    firsts = roots == torch.arange(len(roots), device="cpu")  # a root is the smallest label of its channel
    numbers = (firsts.cumsum(0) - 1)[roots]
    owner_of, roles = _owners(run)
    held = _numbered(numbers, [owner.labels for owner in table.owners])
    axes = [
        Axis(owner.tensor, owner.dim, owner.groups, roles.get(position, "transform"), channels)
        for position, (owner, channels) in enumerate(zip(table.owners, held, strict=True))
    ]
    touched = _numbered(numbers, [torch.cat([work.reads, work.writes, work.carried]) for work in run.work])
    expressions = [*(entry.expression for entry in table.sizes), *(scaling.expression for scaling in run.scaled)]
    used = {leaf: None for expression in expressions for leaf in leaves_of(expression)}
    asked = frozenset((leaf.module, leaf.name) for leaf in used if isinstance(leaf, Attribute))
    # attributes that the forward uses must fit its required sizes, whatever they state
    stated = [own for own in run.stated if (own.module, own.name) not in asked]
    used |= {leaf: None for own in stated for leaf in leaves_of(own.expression)}
    scales, unscaled = _scales(run, numbers, owner_of)
    removed = torch.zeros(int(numbers.max()) + 1, dtype=torch.bool, device="cpu")
    whole = removed.clone()
    for rows in heads:
        whole[numbers[rows.row]] = True
    return Channels(
        axes=axes,
        sizes=[_size(numbers, entry, entry.expression, entry.where) for entry in table.sizes],
        layers=[Layer(channels, work) for channels, work in zip(touched, run.work, strict=True)],
        reasons=_reasons(run, numbers),
        removed=removed,
        leaves={leaf: _size(numbers, leaf, leaf) for leaf in used if isinstance(leaf, AxisSize)},
        scales=scales,
        heads=whole,
        numbers=numbers,
        parameters=run.parameters,
        outputs=run.outputs,
        stated=stated,
        asked=asked,
        unscaled=unscaled,
    )


def _numbered(numbers: Tensor, labels: list[Tensor]) -> Sequence[Tensor]:
    return numbers[torch.cat(labels)].split([some.numel() for some in labels]) if labels else []


def _with_rows(run: ChannelTrace) -> Tensor:
    """Roots of all labels; a row label joins its entries if these are all united."""
    table = run.table
    roots = table.roots()
    while True:
        grown = False
        for rows in table.rows:
            inside = roots[rows.labels]
            real = (rows.row != 0) & (inside[:, 0] != 0)
            whole = (inside == inside[:, :1]).all(1) & (roots[rows.row] != inside[:, 0]) & real
            if whole.any():
                table.unite(rows.row[whole], rows.labels[whole, 0], "rows")
                grown = True
        if not grown:
            return roots
        roots = table.roots()


def _reasons(run: ChannelTrace, numbers: Tensor) -> dict[int, str]:
    reasons: dict[int, str] = {0: "is not a channel"}
    for labels, reason in run.table.frozen:
        for channel in torch.unique(numbers[labels]).tolist():
            reasons.setdefault(channel, reason)
    for rows in run.table.rows:
        channels, inside = numbers[rows.row], numbers[rows.labels]
        for channel in torch.unique(channels[(channels[:, None] != inside).any(1)]).tolist():
            reasons.setdefault(channel, "has one value per attention head or group")
    return reasons


def _size(numbers: Tensor, laid: Sized | AxisSize, expression: Expression | None, where: str = "") -> Size:
    """Lay labels out as `(rows, entries along the flexible axis)`, or by position along another axis."""
    channels = numbers[laid.labels]
    if laid.axis == laid.flexible:
        rows = channels.movedim(laid.flexible, -1).reshape(-1, channels.size(laid.flexible))
        return Size(rows, False, expression, where)
    return Size(channels.movedim(laid.axis, 0).reshape(channels.size(laid.axis), -1), True, expression, where)


def _scales(run: ChannelTrace, numbers: Tensor, owner_of: Tensor) -> tuple[list[Scale], dict[str, list[Expression]]]:
    """Numbers that depend on widths, with their rows (and these rows' biases); and the numbers without rows."""
    nothing = torch.zeros(0, dtype=torch.long, device="cpu")
    read = torch.zeros(len(numbers), dtype=torch.bool, device="cpu")
    read[numbers[torch.cat([nothing, *(work.reads for work in run.work)])]] = True
    starts = [int(owner.labels[0]) for owner in run.table.owners] if run.scaled else []
    twin = torch.zeros(run.table.count, dtype=torch.long, device="cpu")
    for outputs, biases in run.twins:
        if len(outputs) == len(biases):
            twin[outputs] = biases
    scales: list[Scale] = []
    unscaled: dict[str, list[Expression]] = {}
    for scaling in run.scaled:
        choices = [torch.unique(torch.cat([some, twin[some]])) for some in scaling.labels]
        choices = [some[owner_of[some] >= 0] for some in choices]
        # other layers may read some rows' channels, and must not see them scaled
        labels = next((some for some in choices if len(some) and not read[numbers[some]].any()), None)
        if labels is None:
            unscaled.setdefault(scaling.where, []).append(scaling.expression)
            continue
        scaled = {starts[number] for number in torch.unique(owner_of[labels]).tolist()}
        rows = {
            number: labels[(labels >= owner.labels[0]) & (labels <= owner.labels[-1])] - owner.labels[0]
            for number, owner in enumerate(run.table.owners)
            if starts[number] in scaled
        }
        scales.append(Scale(scaling.expression, scaling.power, rows))
    return scales, unscaled


def _owners(run: ChannelTrace) -> tuple[Tensor, dict[int, str]]:
    """The first owner of every label, by position (-1 for labels that stand for rows); and whether layers write or read owners."""
    owner_of = torch.full((run.table.count,), -1, device="cpu")
    for number, owner in enumerate(run.table.owners):
        if not owner.shared:
            owner_of[owner.labels] = number
    roles: dict[int, str] = {}
    for role, labels in (("feed-in", [w.writes for w in run.work]), ("feed-out", [w.reads for w in run.work])):
        for number in torch.unique(owner_of[torch.cat(labels)]).tolist() if labels else ():
            if number >= 0 and run.table.owners[number].tensor not in run.buffers:  # a buffer is no layer
                roles.setdefault(number, role)
    return owner_of, roles
