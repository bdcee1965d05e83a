"""Concatenation and stacking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.combine import Operand, meet
from dfpc_plugin.ops.record import EXACT, composed, native, operator
from dfpc_plugin.tracing.axes import along, canonical, squeezed, varying
from dfpc_plugin.tracing.operator import Means
from dfpc_plugin.tracing.proxy import Proxy, blank, shape_of, slots_of


def _joined(call: ChannelCall, tensors: Sequence[Tensor], dim: int) -> Proxy:
    """Concatenate channels along `dim`, and unite channels along other axes."""
    tensors = [t for t in tensors if shape_of(t).numel()] or list(tensors)
    shapes = [shape_of(t) for t in tensors]
    dim = dim % len(shapes[0])
    shape = list(shapes[0])
    shape[dim] = sum(s[dim] for s in shapes)
    tensors = [_with_channels(call, t, dim) for t in tensors]
    across = [Operand(_across(t, dim), _extents(t, dim), getattr(t, "wild", False)) for t in tensors]
    slots = [slot.expand(shape) for slot in meet(call.table, across, call.where)]
    along = [[slot for slot in slots_of(t) if dim in varying(slot)] for t in tensors]
    for number in range(max(map(len, along))):
        pieces = [own[number] if number < len(own) else blank(t) for own, t in zip(along, tensors, strict=True)]
        axes = {axis for piece in pieces for axis in varying(piece)}
        thin = tuple(slice(None) if axis in axes or axis == dim else slice(0, 1) for axis in range(len(shape)))
        slots.append(canonical(torch.cat([piece[thin] for piece in pieces], dim)).expand(shape))
    result = call.make(shape, slots)
    result.rows = _joined_rows(tensors, lambda pieces: torch.cat(pieces, dim))
    return result


def _with_channels(call: ChannelCall, tensor: Tensor, dim: int) -> Tensor:
    """Give channels along `dim` to a constant whose size the forward computes, such as the first state of a recurrence."""
    size = tensor.spread.get(dim) if isinstance(tensor, Proxy) and not tensor.slots else None
    if size is None:
        return tensor
    shape = shape_of(tensor)
    labels = call.table.new(shape[dim]).view(along(dim, len(shape))).expand(shape)
    call.size(labels, dim, size)
    return call.make(shape, [labels])


def _joined_rows(tensors: Sequence[Tensor], join: Callable[[list[Tensor]], Tensor]) -> tuple[Tensor, ...]:
    """Concatenate the weight rows that scale the tensors; none if a tensor has none."""
    rows = [getattr(t, "rows", ()) for t in tensors]
    if not all(rows):
        return ()
    most = max(map(len, rows))
    return tuple([canonical(join([own[min(number, len(own) - 1)] for own in rows])) for number in range(most)])


def _across(tensor: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Labels that do not vary along `dim`, with size one there."""
    return tuple(squeezed(slot) for slot in slots_of(tensor) if dim not in varying(slot))


def _extents(tensor: Tensor, dim: int) -> frozenset[int]:
    return frozenset(axis for axis, size in enumerate(shape_of(tensor)) if size > 1 and axis != dim)


def _cat_channels(call: ChannelCall, tensors: Sequence[Tensor], dim: int = 0, **kwargs: Any) -> Proxy:
    return _joined(call, tensors, kwargs.get("axis", dim))


def _stack_channels(call: ChannelCall, tensors: Sequence[Tensor], dim: int = 0) -> Proxy:
    """Stack along a new axis; each tensor keeps its own channels."""
    dim = dim % (len(shape_of(tensors[0])) + 1)
    shape = list(shape_of(tensors[0]))
    shape.insert(dim, len(tensors))
    slots = []
    for number in range(max(len(slots_of(t)) for t in tensors)):
        pieces = [slots_of(t)[number] if number < len(slots_of(t)) else blank(t) for t in tensors]
        slots.append(canonical(torch.stack(pieces, dim)))
    for slot in slots:
        axes = [axis for axis in varying(slot) if axis != dim]
        if dim in varying(slot) and axes:
            call.size(slot, axes[-1], None, flexible=axes[-1])
            call.size(slot, dim, len(tensors), flexible=axes[-1])
    result = call.make(shape, slots)
    result.rows = _joined_rows(tensors, lambda pieces: torch.stack(pieces, dim))
    return result


for _function in (torch.cat, torch.concat, torch.concatenate, torch.stack):
    _channels = _stack_channels if _function is torch.stack else _cat_channels
    operator(_function, convention=EXACT, channels=_channels, means=Means.LINEAR, additive=True, kind="joins")(
        native(_function, __name__, "Concatenates bounds; constants (class tokens) have bound zero.")
    )


@composed(torch.hstack)
def horizontal_stack(tensors: Sequence[Any]) -> Any:
    """Concatenation along axis one, of vectors along their only axis."""
    parts = list(map(torch.atleast_1d, tensors))
    return torch.cat(parts, min(1, parts[0].dim() - 1))


@composed(torch.column_stack)
def column_stack(tensors: Sequence[Any]) -> Any:
    """Concatenation along axis one; vectors are columns."""
    return torch.cat([part if part.dim() > 1 else part.reshape(-1, 1) for part in tensors], 1)


@composed(torch.vstack)
def vertical_stack(tensors: Sequence[Any]) -> Any:
    """Concatenation along axis zero; vectors are rows."""
    return torch.cat(list(map(torch.atleast_2d, tensors)))


@composed(torch.dstack)
def depth_stack(tensors: Sequence[Any]) -> Any:
    """Concatenation along axis two."""
    return torch.cat(list(map(torch.atleast_3d, tensors)), 2)
