"""The channels of a model: sets of united labels, and where each of them lies.

A *channel* is a set of labels that operators have united: one index of every parameter it passes through. The notes of a pass
are kept here in terms of channels. Pruned channels are marked, and positions are counted without them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfpc_plugin.analyses.channels import ChannelTrace
from dfpc_plugin.analyses.table import Sized, Work
from dfpc_plugin.analyses.width_attributes import Stated
from dfpc_plugin.tracing.sizes import Attribute, AxisSize, Expression, leaves_of


@dataclass(frozen=True)
class Axis:
    """A labelled dimension `dim` of a parameter or buffer, which is named as in the state dict.

    `channels (groups * size,)` has the channel at each index; `groups` is above one where the dimension holds one group's
    channels of a grouped convolution. `role`: "feed-in" where a layer writes channels, "feed-out" where it reads them,
    "transform" elsewhere.
    """

    tensor: str
    dim: int
    groups: int
    channels: Tensor
    role: str

    @property
    def layer(self) -> str:
        """Path of the layer that owns the tensor."""
        return self.tensor.removesuffix(".weight")

    def entries(self, rows: int) -> tuple[Tensor, tuple[int, ...]]:
        """The channels of the entries of the tensor, which has so many rows, and the dimensions along which they vary."""
        if self.groups == 1:
            return self.channels, (self.dim,)
        # each group's rows have their own inputs
        return self.channels.view(self.groups, -1).repeat_interleave(rows // self.groups, 0), (0, self.dim)


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
    """One call of a layer or matrix product: all its channels, its MACs before pruning, and the pass's note."""

    channels: Tensor
    macs: int
    work: Work


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
    stated: list[Stated]
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
    reasons = _reasons(run, numbers)
    leaves: dict[AxisSize, Size] = {}
    sizes = [_size(entry, numbers, leaves) for entry in table.sizes]
    touched = _numbered(numbers, [torch.cat([work.reads, work.writes, work.carried]) for work in run.work])
    layers = [Layer(channels, work.macs, work) for channels, work in zip(touched, run.work, strict=True)]
    roles = _roles(run)
    held = _numbered(numbers, [owner.labels for owner in table.owners])
    axes = [
        Axis(owner.tensor, owner.dim, owner.groups, channels, roles.get(position, "transform"))
        for position, (owner, channels) in enumerate(zip(table.owners, held, strict=True))
    ]
    scales, unscaled = _scales(run, numbers, leaves)
    asked = _asked(run)
    stated = _stated(run, asked, numbers, leaves)
    removed = torch.zeros(int(numbers.max()) + 1, dtype=torch.bool, device="cpu")
    whole = removed.clone()
    for rows in heads:
        whole[numbers[rows.row]] = True
    return Channels(
        axes, sizes, layers, reasons, removed, leaves, scales, whole, numbers, run.parameters, run.outputs, stated,
        asked=asked, unscaled=unscaled,
    )  # fmt: skip


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


def _size(entry: Sized, numbers: Tensor, leaves: dict[AxisSize, Size]) -> Size:
    """One required size, laid out as rows, like the shapes that its expression reads."""
    _lay_out_leaves(entry.expression, numbers, leaves)
    rows, along = _rows(numbers, entry.labels, entry.axis, entry.flexible)
    return Size(rows, along, entry.expression, entry.where)


def _lay_out_leaves(expression: Expression, numbers: Tensor, leaves: dict[AxisSize, Size]) -> None:
    for leaf in leaves_of(expression) if expression is not None else ():
        if isinstance(leaf, AxisSize) and leaf not in leaves:
            rows, along = _rows(numbers, leaf.labels, leaf.axis, leaf.flexible)
            leaves[leaf] = Size(rows, along, leaf, "")


def _scales(
    run: ChannelTrace, numbers: Tensor, leaves: dict[AxisSize, Size]
) -> tuple[list[Scale], dict[str, list[Expression]]]:
    """Numbers that depend on widths, with their rows (and these rows' biases); and the numbers without rows."""
    owner_of = _owner_of(run)
    nothing = torch.zeros(0, dtype=torch.long, device="cpu")
    read = torch.zeros(len(numbers), dtype=torch.bool, device="cpu")
    read[numbers[torch.cat([nothing, *(work.reads for work in run.work)])]] = True
    starts = [int(owner.labels[0]) for owner in run.table.owners] if run.scaled else []
    twin = torch.full((run.table.count,), 0, device="cpu")
    for outputs, biases in run.twins:
        if len(outputs) == len(biases):
            twin[outputs] = biases
    scales: list[Scale] = []
    unscaled: dict[str, list[Expression]] = {}
    for scaling in run.scaled:
        _lay_out_leaves(scaling.expression, numbers, leaves)
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


def _asked(run: ChannelTrace) -> frozenset[tuple[str, str]]:
    expressions = [*(entry.expression for entry in run.table.sizes), *(scaling.expression for scaling in run.scaled)]
    return frozenset(
        (leaf.module, leaf.name)
        for expression in expressions if expression is not None
        for leaf in leaves_of(expression) if isinstance(leaf, Attribute)
    )  # fmt: skip


def _stated(
    run: ChannelTrace, asked: Collection[tuple[str, str]], numbers: Tensor, leaves: dict[AxisSize, Size]
) -> list[Stated]:
    """Stated widths, without attributes that the forward uses: these must fit its required sizes."""
    result = [stated for stated in run.stated if (stated.module, stated.name) not in asked]
    for stated in result:
        _lay_out_leaves(stated.expression, numbers, leaves)
    return result


def _owner_of(run: ChannelTrace) -> Tensor:
    """The first owner of every label, by position; -1 for labels that stand for rows."""
    owner_of = torch.full((run.table.count,), -1, device="cpu")
    makers = [(number, owner.labels) for number, owner in enumerate(run.table.owners) if not owner.shared]
    if makers:
        numbers = torch.tensor([number for number, _ in makers], device="cpu")
        lengths = torch.tensor([labels.numel() for _, labels in makers], device="cpu")
        owner_of[torch.cat([labels for _, labels in makers])] = numbers.repeat_interleave(lengths)
    return owner_of


def _rows(numbers: Tensor, labels: Tensor, axis: int, flexible: int) -> tuple[Tensor, bool]:
    """Lay labels out as `(rows, entries along the flexible axis)`, or by position along another axis."""
    channels = numbers[labels]
    if axis == flexible:
        return channels.movedim(flexible, -1).reshape(-1, channels.size(flexible)), False
    return channels.movedim(axis, 0).reshape(channels.size(axis), -1), True


def _roles(run: ChannelTrace) -> dict[int, str]:
    """Whether layers write or read each labelled dimension, by number of its owner."""
    owner_of = _owner_of(run)
    roles: dict[int, str] = {}
    if run.work:
        for role, labels in (("feed-in", [w.writes for w in run.work]), ("feed-out", [w.reads for w in run.work])):
            for number in torch.unique(owner_of[torch.cat(labels)]).tolist():
                if number >= 0 and run.table.owners[number].tensor not in run.buffers:  # a buffer is no layer
                    roles.setdefault(number, role)
    return roles
