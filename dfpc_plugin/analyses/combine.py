"""Labels where operands are combined element by element, and where elements are summed.

Every operator that mixes operands is a sum of products over named axes, an einsum: an addition sums over no axis, a linear
layer over its input channels, attention logits over the channels of a head. Operands are laid out on all axes, with size one
for axes they lack. `meet` unites their labels, `contract` sums axes away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfpc_plugin.analyses.table import LabelTable, Rows, Sized, fixed_by
from dfpc_plugin.tracing.axes import canonical, first_along, inner_axis, listed, squeezed, varying
from dfpc_plugin.tracing.sizes import expression_of


@dataclass(frozen=True)
class Operand:
    """A tensor laid out on all axes of an operator: its labels have size one along those it lacks.

    `extents` are the axes along which it has more than one element of its own. A `wild` one adapts to the shape of its
    partners. `spread` are axes expanded from one element, with the requested size; None if that is noted elsewhere.
    """

    slots: tuple[Tensor, ...]
    extents: frozenset[int]
    wild: bool = False
    spread: Mapping[int, int | None] = field(default_factory=dict)


def meet(table: LabelTable, operands: Sequence[Operand], where: str) -> list[Tensor]:
    """Unite the labels of operands that are combined element by element; returns the labels of the product.

    Labels along an axis that a partner lacks are unchanged. Labels along an axis where a partner has elements but no channels
    are protected.
    """
    merged: list[Tensor] = []
    for operand in operands:
        others = len(merged)
        for slot in operand.slots:
            _join(table, merged, slot, others, where)
    return [slot for slot in merged if not _meets_nothing(table, slot, operands, where)]


def _meets_nothing(table: LabelTable, slot: Tensor, operands: Sequence[Operand], where: str) -> bool:
    """Freeze channels that are combined with an axis of fixed size; returns whether they were."""
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
    """Unite `slot` with the one of the first `count` of `merged` that varies along its channel axis, or append it."""
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
    """Note that rows of two tensors of labels are pruned together, such as the inputs and outputs of a group."""
    shape = [max(slot.size(axis), other.size(axis)) if axis in shared else 1 for axis in range(slot.dim())]
    row = table.new(int(torch.Size(shape).numel())).view(shape)
    _relate_rows(table, row, slot, where)
    _relate_rows(table, row, other, where)


def _relate_rows(table: LabelTable, row: Tensor, labels: Tensor, where: str) -> None:
    """Note that each element of `row` stands for all elements of `labels` at its position."""
    shared = varying(row)
    rest = [axis for axis in range(labels.dim()) if axis not in shared]
    matrix = squeezed(labels).permute(*shared, *rest)
    table.rows.append(Rows(listed(row), matrix.reshape(squeezed(row).numel(), -1), where))


def sum_away(table: LabelTable, slots: Sequence[Tensor], summed: Iterable[int], where: str) -> list[Tensor]:
    """Sum over axes (which keep size one); returns the labels of the result."""
    settled: list[Tensor] = []
    for slot in slots:
        left = contract(table, slot, summed, where)
        if left is not None:
            _join(table, settled, canonical(left), len(settled), where)
    return settled


def contract(table: LabelTable, slot: Tensor, summed: Iterable[int], where: str) -> Tensor | None:
    """Sum over axes (which keep size one); returns the remaining labels, or None.

    A sum over all channel axes reads the channels. A sum over the channels of each row (attention heads) leaves one label per
    row. A sum over rows (the paths of a selective kernel) unites their channels.
    """
    summed = set(summed)
    axes = varying(slot)
    gone, kept = [axis for axis in axes if axis in summed], [axis for axis in axes if axis not in summed]
    if not gone:
        return first_along(slot, summed)
    if not kept:
        return None
    if inner_axis(slot) in kept:
        return first_along(table.unite_along(slot, gone, where), summed)
    shape = [slot.size(axis) if axis in kept else 1 for axis in range(slot.dim())]
    row = table.new(int(torch.Size(shape).numel())).view(shape)
    _relate_rows(table, row, slot, where)
    return row.expand([1 if axis in summed else size for axis, size in enumerate(slot.shape)])


def laid_out(slot: Tensor, letters: Sequence[object], axes: Sequence[object]) -> Tensor:
    """Lay labels with the named axes `letters` out on all `axes`."""
    order = [letters.index(axis) for axis in axes if axis in letters]
    index = tuple(slice(None) if axis in letters else None for axis in axes)
    return canonical(slot.permute(order))[index]
