"""Putting tensors side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.labels.axes import canonical, squeezed, varying
from dfpc_plugin.labels.call import LabelCall, same_rows
from dfpc_plugin.labels.combine import Operand, meet
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.tensor import LabelTensor, shape_of

__all__: list[str] = []


def _slots(tensor: Tensor) -> tuple[Tensor, ...]:
    """Labels of data, weights, or an ordinary tensor, which has none."""
    return tensor.slots if isinstance(tensor, LabelTensor) else ()


def _joined(call: LabelCall, tensors: Sequence[Tensor], dim: int) -> LabelTensor:
    """Join along `dim`: channels along it are put side by side; channels along other axes go together."""
    tensors = [t for t in tensors if shape_of(t).numel()] or list(tensors)
    shapes = [shape_of(t) for t in tensors]
    dim = dim % len(shapes[0])
    shape = list(shapes[0])
    shape[dim] = sum(s[dim] for s in shapes)
    across = [Operand(_across(t, dim), _extents(t, dim), getattr(t, "wild", False)) for t in tensors]
    slots = [slot.expand(shape) for slot in meet(call.table, across, call.where)]
    along = [[slot for slot in _slots(t) if dim in varying(slot)] for t in tensors]
    for number in range(max(map(len, along))):
        pieces = [
            own[number] if number < len(own) else torch.zeros((), dtype=torch.long, device="cpu").expand(s)
            for own, s in zip(along, shapes, strict=True)
        ]
        axes = {axis for piece in pieces for axis in varying(piece)}
        thin = tuple(slice(None) if axis in axes or axis == dim else slice(0, 1) for axis in range(len(shape)))
        slots.append(canonical(torch.cat([piece[thin] for piece in pieces], dim)).expand(shape))
    result = call.make(shape, slots)
    sides = any(operand.slots for operand in across)  # named by the first tensor's rows alone
    result.linear = all(getattr(t, "linear", False) and (not sides or same_rows(t, tensors[0])) for t in tensors)
    return result


def _across(tensor: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Labels that do not vary along `dim`, at one position of it."""
    return tuple(squeezed(slot) for slot in _slots(tensor) if dim not in varying(slot))


def _extents(tensor: Tensor, dim: int) -> frozenset[int]:
    """Axes other than `dim` along which the tensor has entries of its own."""
    return frozenset(axis for axis, size in enumerate(shape_of(tensor)) if size > 1 and axis != dim)


@label_rule(torch.cat, torch.concat, torch.concatenate)
def cat(call: LabelCall, tensors: Sequence[Tensor], dim: int = 0, **kwargs: Any) -> LabelTensor:
    """Puts tensors side by side along an axis."""
    return _joined(call, tensors, kwargs.get("axis", dim))


@label_rule(torch.stack)
def stack(call: LabelCall, tensors: Sequence[Tensor], dim: int = 0) -> LabelTensor:
    """Puts tensors side by side along a new axis, where each keeps channels of its own."""
    dim = dim % (len(shape_of(tensors[0])) + 1)
    shape = list(shape_of(tensors[0]))
    shape.insert(dim, len(tensors))
    slots = []
    for number in range(max(len(_slots(t)) for t in tensors)):
        pieces = []
        for t in tensors:
            own = _slots(t)
            pieces.append(own[number] if number < len(own) else torch.zeros((), dtype=torch.long, device="cpu").expand(shape_of(t)))
        slots.append(canonical(torch.stack(pieces, dim)))
    for slot in slots:
        axes = [axis for axis in varying(slot) if axis != dim]
        if dim in varying(slot) and axes:
            call.size(slot, axes[-1], None, flexible=axes[-1])
            call.size(slot, dim, len(tensors), flexible=axes[-1])
    result = call.make(shape, slots)
    result.linear = all(getattr(t, "linear", False) for t in tensors)
    return result


for _name, _dim in (("hstack", 1), ("vstack", 0)):

    def _stack_along(call: LabelCall, tensors: Sequence[Tensor], _dim: int = _dim) -> LabelTensor:
        return _joined(call, tensors, _dim if len(shape_of(tensors[0])) > 1 else 0)

    label_rule(getattr(torch, _name))(_stack_along)
