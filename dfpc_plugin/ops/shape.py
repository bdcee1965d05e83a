"""Operators that change shapes: they are applied to bounds, means and labels, and the requested sizes are noted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.ops.record import moves, native
from dfpc_plugin.tracing.axes import canonical, inner_axis, squeezed, varying
from dfpc_plugin.tracing.operator import forms
from dfpc_plugin.tracing.proxy import Proxy, blank, shape_of, slots_of
from dfpc_plugin.tracing.sizes import AxisSize, TracedInt


def _spelled(sizes: tuple[Any, ...]) -> list[int]:
    return list(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)


def _reshaped(call: ChannelCall, input: Proxy, sizes: list[int]) -> Proxy:
    """Reshape labels, and note every size requested along an axis of channels."""
    plain = [int(size) for size in sizes]
    _align_rows(call, input, plain)
    result = call.moved(input, lambda slot: slot.reshape(plain))
    slots = slots_of(result)
    inner = [inner_axis(slot) for slot in slots]
    for slot, own in zip(slots, inner, strict=True):
        for axis in varying(slot):
            if axis == own or axis not in inner:  # else this axis also holds other slots' channels
                call.size(slot, axis, None if plain[axis] == -1 else sizes[axis])
    return result


def _align_rows(call: ChannelCall, input: Proxy, sizes: list[int]) -> None:
    """Unite rows whose elements a reshape pairs by position, as in a channel shuffle, or lays among positions.

    After pruning, the n-th remaining element of one row is paired with the n-th of another, so both must lose the same
    ones.
    """
    own = shape_of(input)
    slots = [slot for slot in slots_of(input) if len(varying(slot)) > 1]
    if not slots:
        return
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        sizes = [own.numel() // known if size == -1 else size for size in sizes]
    for joined in _joined_axes(own, sizes):
        for slot in slots:
            axes = varying(slot)
            inside = [axis for axis in axes if axis in joined]
            inner = inner_axis(slot)
            positions = inside and any(0 < axis < inside[-1] and own[axis] > 1 and axis not in axes for axis in joined)
            if inner in inside and inner != inside[-1]:
                call.table.unite_along(slot, [axis for axis in inside if axis != inner], call.where)
            elif positions and len(inside) < len(axes):
                call.table.unite_along(slot, inside, call.where)


def _joined_axes(before: Sequence[int], after: Sequence[int]) -> list[list[int]]:
    """Groups of axes that a reshape merges, as far as the sizes tell."""
    runs: list[list[int]] = []
    start = stop = 0
    while start < len(before):
        left, right = before[start], after[stop] if stop < len(after) else 1
        run = [start]
        start, stop = start + 1, stop + 1
        while left != right and (start < len(before) if left < right else stop < len(after)):
            if left < right:
                left *= before[start]
                run.append(start)
                start += 1
            else:
                right *= after[stop]
                stop += 1
        runs.append(run)
    return runs


def _reshape_channels(call: ChannelCall, input: Proxy, *shape: Any, **kwargs: Any) -> Proxy:
    """Require every given size except the one that torch infers."""
    shape = shape or tuple(kwargs.values())
    if isinstance(shape[0], torch.dtype):
        return call.same(input)
    if isinstance(shape[0], Tensor):
        return _reshaped(call, input, list(shape[0].shape))
    return _reshaped(call, input, _spelled(shape))


def _flatten_channels(call: ChannelCall, input: Proxy, *args: Any, **kwargs: Any) -> Proxy:
    """Require equally long rows where a row axis is merged with its channels; request no size."""
    shape = torch.flatten(torch.empty(shape_of(input), device="meta"), *args, **kwargs).shape
    _align_rows(call, input, list(shape))
    for slot in input.slots:
        inner = inner_axis(slot)
        if len(varying(slot)) > 1 and inner is not None:
            call.size(slot, inner, None)
    return call.moved(input, lambda slot: torch.flatten(slot, *args, **kwargs))


def _unflatten_channels(call: ChannelCall, input: Proxy, dim: int, sizes: Any) -> Proxy:
    """Require the sizes of the axes that one is split into."""
    dim = dim % input.dim()
    own = list(input.shape)
    return _reshaped(call, input, [*own[:dim], *sizes, *own[dim + 1 :]])


def _expand_channels(call: ChannelCall, input: Proxy, *sizes: Any, **kwargs: Any) -> Proxy:
    """Copy labels along new axes or axes of size one; require the sizes of the others."""
    sizes = sizes or tuple(kwargs.values())
    asked = list(sizes[0].shape) if isinstance(sizes[0], Tensor) else _spelled(sizes)
    plain = [int(size) for size in asked]
    result = call.moved(input, lambda slot: slot.expand(plain))
    for slot in slots_of(result):
        for axis in varying(slot):
            if plain[axis] != -1:
                call.size(slot, axis, asked[axis])
    return call.copied(input, result, asked)


def _chunk_channels(call: ChannelCall, input: Proxy, chunks: int, dim: int = 0) -> Any:
    """Parts of equal size, except the last."""
    return _chunked(call, input, chunks, dim % input.dim(), torch.chunk)


def _tensor_split_channels(call: ChannelCall, input: Proxy, *args: Any, dim: int = 0, **kwargs: Any) -> Any:
    """Parts whose sizes differ by one at most, or parts between fixed positions."""
    given = [*args, *kwargs.values()]
    axis = (given[1] if len(given) > 1 else dim) % input.dim()
    if isinstance(given[0], int):
        return _chunked(call, input, given[0], axis, torch.tensor_split)
    for slot in input.slots:
        if axis in varying(slot):
            for bound in given[0]:
                call.size(slot.narrow(axis, 0, int(bound)), axis, bound, flexible=axis)
    return _parts(call, input, lambda slot: torch.tensor_split(slot, [int(bound) for bound in given[0]], axis))


def _chunked(call: ChannelCall, input: Proxy, chunks: int, dim: int, cut: Any) -> Any:
    parts = _parts(call, input, lambda slot: cut(slot, int(chunks), dim))
    if len(parts) > 1:
        for slot in input.slots:
            if dim in varying(slot):
                _note_chunks(call, slot, dim, chunks, [shape_of(part)[dim] for part in parts])
    return parts


def _note_chunks(call: ChannelCall, slot: Tensor, dim: int, chunks: int, sizes: list[int]) -> None:
    """Require equal parts, except the last."""
    if len(set(sizes)) == 1:
        _note_rows(call, slot, dim, len(sizes), None)
        return
    whole = TracedInt(slot.size(dim), AxisSize(squeezed(slot), dim, dim))
    for number, part in enumerate(slot.split(sizes, dim)[:-1]):
        if "chunk" in call.name:
            call.size(part, dim, -(-whole // chunks), flexible=dim)
        else:
            call.size(part, dim, (whole + (chunks - 1 - number)) // chunks, flexible=dim)


def _split_channels(call: ChannelCall, input: Proxy, split_size: Any = None, dim: int = 0, **kwargs: Any) -> Any:
    asked = next((v for k, v in kwargs.items() if k.startswith("split_size")), split_size)
    dim = dim % input.dim()
    plain = int(asked) if isinstance(asked, int) else [int(size) for size in asked]
    parts = _parts(call, input, lambda slot: torch.split(slot, plain, dim))
    equal = isinstance(plain, int) and len(parts) > 1 and shape_of(input)[dim] % plain == 0
    for slot in input.slots:
        if dim not in varying(slot):
            continue
        if equal:
            _note_rows(call, slot, dim, len(parts), asked)
            continue
        for number, part in enumerate(slot.split(plain, dim)):
            if not isinstance(asked, int) or number + 1 < len(parts):
                call.size(part, dim, asked if isinstance(asked, int) else asked[number], flexible=dim)
    return parts


def _note_rows(call: ChannelCall, slot: Tensor, dim: int, count: int, size: Any) -> None:
    """Require that equal parts keep equally many channels (`size`, if given), and that their number stays `count`."""
    rows = slot.unflatten(dim, (count, -1))
    if rows.size(dim + 1) > 1:
        call.size(rows, dim + 1, size, flexible=dim + 1)
        call.size(rows, dim, count, flexible=dim + 1)
    else:
        call.size(slot, dim, count, flexible=dim)


def _unbind_channels(call: ChannelCall, input: Proxy, dim: int = 0) -> Any:
    dim = dim % input.dim()
    for slot in input.slots:
        if dim in varying(slot):
            call.size(slot, dim, shape_of(input)[dim])
    return _parts(call, input, lambda slot: torch.unbind(slot, dim))


def _parts(call: ChannelCall, input: Proxy, cut: Any) -> Any:
    """Split labels; returns one tensor per part."""
    pieces = [cut(slot) for slot in input.slots]
    rows = [cut(row) for row in input.rows]
    shapes = [piece.shape for piece in (pieces[0] if pieces else cut(blank(input)))]
    results = []
    for number, shape in enumerate(shapes):
        part = call.make(shape, [piece[number] for piece in pieces], part=number)
        part.rows = tuple([canonical(row[number]) for row in rows])
        part.wild, part.multiplied = part.wild or input.wild, input.multiplied
        results.append(part)
    return tuple(results)


for _channels, _functions in (
    (_flatten_channels, forms("flatten", "ravel")),
    (_unflatten_channels, forms("unflatten")),
    (_expand_channels, forms("expand", "broadcast_to", "expand_as")),
    (_chunk_channels, forms("chunk")),
    (_tensor_split_channels, forms("tensor_split")),
    (_split_channels, forms("split", "split_with_sizes")),
    (_unbind_channels, forms("unbind")),
    (_reshape_channels, forms("reshape")),
):
    for _function in _functions:
        moves(_function, channels=_channels, view=True)(native(_function, __name__))


@moves(Tensor.view, Tensor.view_as, Tensor.reshape_as, channels=_reshape_channels, view=True)
def view(input: Tensor, *shape: Any, **kwargs: Any) -> Tensor:
    """Moves elements (bounds may have other strides than the data, so this reshapes)."""
    shape = shape or tuple(kwargs.values())
    if isinstance(shape[0], torch.dtype):
        return input
    return input.reshape(shape[0].shape) if isinstance(shape[0], Tensor) else input.reshape(*shape)
