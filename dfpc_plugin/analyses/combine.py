"""What happens to channels where operands meet entry by entry, and where entries are summed.

Every operator that mixes operands is a sum of products over named axes, an einsum: an addition has no summed axis, a
linear layer sums over its input channels, attention logits sum over the channels of a head. Operands are laid out on all
the axes at once, with size one where they lack an axis; `meet` unites their labels, `contract` sums axes away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfpc_plugin.analyses.table import LabelTable, Rows, Sized, fixed_by
from dfpc_plugin.tracing.axes import canonical, inner_axis, squeezed, varying
from dfpc_plugin.tracing.sizes import expression_of

__all__ = ["Operand", "laid_out", "meet", "sum_away"]


@dataclass(frozen=True)
class Operand:
    """A tensor laid out on all axes of an operator.

    Attributes:
        slots: Its labels; every one has all axes, of size one where the operand lacks the axis.
        extents: Axes along which the operand has entries of its own, not one entry for all.
        wild: It takes whatever shape its partners have.
        spread: Axes along which it was expanded from one entry, with the size asked for; None if that is noted elsewhere.
    """

    slots: tuple[Tensor, ...]
    extents: frozenset[int]
    wild: bool = False
    spread: Mapping[int, int | None] = field(default_factory=dict)


def meet(table: LabelTable, operands: Sequence[Operand], where: str) -> list[Tensor]:
    """Unite the labels of operands that meet entry by entry; returns the labels of the entries of the product.

    Labels along an axis that a partner lacks meet nothing and stay as they are. Labels along an axis where a partner
    has entries but no channels cannot go.
    """
    merged: list[Tensor] = []
    for operand in operands:
        others = len(merged)
        for slot in operand.slots:
            _join(table, merged, slot, others, where)
    return [slot for slot in merged if not _meets_nothing(table, slot, operands, where)]


def _meets_nothing(table: LabelTable, slot: Tensor, operands: Sequence[Operand], where: str) -> bool:
    """Freeze channels that are combined with an axis of fixed size, as their axis then has a fixed size, too."""
    inner = inner_axis(slot)
    assert inner is not None
    for operand in operands:
        if inner in operand.spread:
            asked = operand.spread[inner]
            if asked is not None:
                table.sizes.append(Sized(squeezed(slot), inner, expression_of(asked), inner, where))
            continue
        fixed = inner in operand.extents and not operand.wild
        if fixed and not any(inner in varying(own) for own in operand.slots):
            table.freeze(slot, fixed_by(where))
            return True
    return False


def _join(table: LabelTable, merged: list[Tensor], slot: Tensor, count: int, where: str) -> None:
    """Unite `slot` with the one of the first `count` of `merged` that its channels lie along with, or append it."""
    axes = set(varying(slot))
    for position in sorted(range(count), key=lambda position: set(varying(merged[position])) != axes):
        other = merged[position]
        others = set(varying(other))
        if not axes & others:
            continue
        larger, smaller = (slot, other) if axes > others else (other, slot)
        if axes == others or (axes | others == set(varying(larger)) and inner_axis(larger) in varying(smaller)):
            table.unite(other, slot, where)
        elif larger is slot or axes < others:
            _relate_rows(table, smaller, larger, where)
        elif inner_axis(slot) in others or inner_axis(other) in axes:
            table.freeze(slot, f"is combined with another axis's channels in {where}")
            table.freeze(other, f"is combined with another axis's channels in {where}")
        else:
            _relate_each_other(table, slot, other, sorted(axes & others), where)
            continue
        merged[position] = larger
        return
    if axes:
        merged.append(slot)


def _relate_each_other(table: LabelTable, slot: Tensor, other: Tensor, shared: Sequence[int], where: str) -> None:
    """Note that rows of two tensors of labels go together: the inputs and the outputs of a group."""
    shape = [max(slot.size(axis), other.size(axis)) if axis in shared else 1 for axis in range(slot.dim())]
    row = table.new(int(torch.Size(shape).numel())).view(shape)
    _relate_rows(table, row, slot, where)
    _relate_rows(table, row, other, where)


def _relate_rows(table: LabelTable, row: Tensor, labels: Tensor, where: str) -> None:
    """Note that entries of `row` stand for all entries of `labels` that share their position."""
    shared = varying(row)
    rest = [axis for axis in range(labels.dim()) if axis not in shared]
    matrix = squeezed(labels).permute(*shared, *rest)
    table.rows.append(Rows(squeezed(row).reshape(-1), matrix.reshape(squeezed(row).numel(), -1), where))


def sum_away(table: LabelTable, slots: Sequence[Tensor], summed: Iterable[int], where: str) -> list[Tensor]:
    """Sum over axes (which keep size one); returns the labels of the entries of the result."""
    settled: list[Tensor] = []
    for slot in slots:
        left = contract(table, slot, summed, where)
        if left is not None:
            _join(table, settled, canonical(left), len(settled), where)
    return settled


def contract(table: LabelTable, slot: Tensor, summed: Iterable[int], where: str) -> Tensor | None:
    """Sum over axes (which keep size one); returns the labels left, or None if none are.

    Summing all axes of the channels reads them. Where channels are laid out in rows and only the channels of a row are
    summed (the heads of attention), the result has one entry per row, which stands for the row. Where rows are summed
    into each other (the paths of a selective kernel), their channels go together.
    """
    summed = set(summed)
    axes = varying(slot)
    gone, kept = [axis for axis in axes if axis in summed], [axis for axis in axes if axis not in summed]
    if not gone:
        return slot[tuple(slice(0, 1) if axis in summed else slice(None) for axis in range(slot.dim()))]
    if not kept:
        return None
    if inner_axis(slot) in kept:
        first = table.unite_along(slot, gone, where)
        return first[tuple(slice(0, 1) if axis in summed else slice(None) for axis in range(slot.dim()))]
    shape = [slot.size(axis) if axis in kept else 1 for axis in range(slot.dim())]
    row = table.new(int(torch.Size(shape).numel())).view(shape)
    _relate_rows(table, row, slot, where)
    return row.expand([1 if axis in summed else size for axis, size in enumerate(slot.shape)])


def laid_out(slot: Tensor, letters: Sequence[object], axes: Sequence[object]) -> Tensor:
    """Lay a tensor with named axes `letters` out on all `axes`."""
    order = [letters.index(axis) for axis in axes if axis in letters]
    index = tuple(slice(None) if axis in letters else None for axis in axes)
    return canonical(slot.permute(order))[index]
