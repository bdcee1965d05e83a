"""The first argument of a channel rule: one operation of a forward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.analyses.combine import Operand, laid_out, meet, sum_away
from dfpc_plugin.analyses.demands import Demands, Notebook
from dfpc_plugin.tracing.axes import canonical, squeezed, varying
from dfpc_plugin.tracing.calls import Call
from dfpc_plugin.tracing.constants import origins_of
from dfpc_plugin.tracing.proxy import Proxy, blank, is_data, shape_of, slots_of
from dfpc_plugin.tracing.tree import map_tensors


class Unfollowed(Exception):
    """An operator is used in a way that its channel rule does not support; the message says in which."""


class ChannelCall(Demands):
    """First argument of a channel rule, for the operation `call`: makes results and notes constraints."""

    def __init__(self, notes: Notebook, call: Call) -> None:
        """Prepare for one operation."""
        super().__init__(
            notes, call.function, weights=not call.data and any(operand.origins for operand in call.operands)
        )
        self.call = call

    def make(
        self,
        shape: Sequence[int],
        slots: Iterable[Tensor | None] = (),
        part: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Proxy:
        """Make a result; `slots` are expanded to `shape`. `part` is its position in a sequence of results."""
        call = self.call
        shape = torch.Size([int(size) for size in shape])
        kept = tuple([slot.expand(shape) for slot in slots if slot is not None])
        dtype = dtype or call.dtype_of(part or 0)
        made = Proxy(shape, self.notes.run, dtype, call.device, data=bool(call.data), slots=kept)
        if not call.data:
            made.wild = not kept and all(operand.wild for operand in call.operands)
            made.origins = origins_of(call.operands)
        return made

    def opaque(self, reason: str) -> Any:
        """Make the result of an operator with unknown effect on channels: its operands' channels are protected."""
        for operand in self.call.operands:
            self.protect(operand, reason)
        parts = itertools.count()
        return map_tensors(lambda meta: self.make(meta.shape, part=next(parts), dtype=meta.dtype), self.call.shapes)

    def on_shapes(self) -> Any:
        """Run the operator on the meta device, for shapes and dtypes."""
        return self.call.shapes

    def elementwise(self, *operands: Any) -> Proxy:
        """Make the result of an operator that combines elements by broadcasting."""
        given = [operand for operand in operands if isinstance(operand, Tensor)]
        shapes = [shape_of(operand) for operand in given]
        shape = shapes[0] if all(s == shapes[0] for s in shapes) else torch.broadcast_shapes(*shapes)
        if len(given) == 1:
            return self.same(given[0])
        if not self.call.data:
            given = sorted(given, key=_naming)
        laid = [self.broadcast(operand, shape) for operand in given]
        merged = meet(self.table, laid, self.where)
        result = self.make(shape, merged)
        labelled = {axis for slot in merged for axis in varying(slot)}
        result.spread = {
            axis: size
            for operand in laid
            for axis, size in operand.spread.items()
            if axis not in labelled and all(axis in other.spread or axis not in other.extents for other in laid)
        }
        return result

    def per_channel(self, input: Any, vectors: Sequence[Any], *, first: int = 0) -> Proxy:
        """Make `input`, with axis one united with the elements of `vectors`.

        Operand number `first` names the result's channels: 0 for the input, n for the n-th vector.
        """
        shape = shape_of(input)
        place: Any = (None, slice(None), *(None,) * (len(shape) - 2))
        operands = [self.broadcast(input, shape)]
        seen: set[int] = set()
        for number, vector in enumerate(vectors, start=1):
            labels = {id(slot) for slot in slots_of(vector)}
            if labels and labels <= seen and number != first:
                continue  # a bias or statistics that share the labels of a weight seen before
            seen |= labels
            slots = tuple(slot[place] for slot in slots_of(vector))
            extents = frozenset({1} if shape_of(vector)[0] > 1 else ())
            operands.append(Operand(slots, extents, getattr(vector, "wild", False)))
        operands.insert(0, operands.pop(first))
        return self.make(shape, meet(self.table, operands, self.where))

    def broadcast(self, tensor: Tensor, shape: torch.Size) -> Operand:
        """Lay a tensor out on the axes of a broadcast result."""
        own = shape_of(tensor)
        lacking = len(shape) - len(own)
        extents = frozenset(axis + lacking for axis, size in enumerate(own) if size > 1)
        if not isinstance(tensor, Proxy):
            return Operand((), extents)
        slots = tensor.slots
        if lacking:
            slots = tuple(slot[(None,) * lacking] for slot in slots)
        return Operand(slots, extents, tensor.wild, {axis + lacking: size for axis, size in tensor.spread.items()})

    def einsum(
        self, operands: Sequence[tuple[Tensor, Sequence[Any]]], output: Sequence[Any], *, work: bool = False
    ) -> Proxy:
        """Make the sum of products over the axes that `output` lacks; `operands` name the axes.

        With `work`, the MACs are noted; a product with a weight is a layer.
        """
        axes = list(dict.fromkeys([*output, *(letter for _, letters in operands for letter in letters)]))
        if work:
            self.note_work(operands, output)
        sizes: dict[Any, int] = {}
        for tensor, letters in operands:
            for letter, size in zip(letters, shape_of(tensor), strict=True):
                known = sizes.get(letter, 1)
                if 1 not in (known, size) and known != size:
                    shapes = " and ".join(str(tuple(shape_of(t))) for t, _ in operands)
                    raise RuntimeError(f"shapes {shapes} do not fit")
                sizes[letter] = max(int(size), known)
        laid = [
            Operand(
                tuple(laid_out(slot, list(letters), axes) for slot in slots_of(tensor)),
                frozenset(axes.index(c) for c, n in zip(letters, shape_of(tensor), strict=True) if n > 1),
                getattr(tensor, "wild", False),
                {axes.index(letters[axis]): size for axis, size in getattr(tensor, "spread", {}).items()},
            )
            for tensor, letters in operands
        ]
        merged = meet(self.table, laid, self.where)
        summed = range(len(output), len(axes))
        left = sum_away(self.table, merged, summed, self.where)
        index: Any = (..., *[0] * len(summed))
        kept = [slot[index] for slot in left]
        result = self.make([sizes[letter] for letter in output], kept)
        if all(is_data(tensor) for tensor, _ in operands):
            first, second = operands[0][0], operands[-1][0]
            result.multiplied = True
            if not same_rows(first, second):
                result.factors = tuple([rows for rows in (getattr(t, "rows", ()) for t in (first, second)) if rows])
        return result

    def same(self, tensor: Any) -> Proxy:
        """Make a result with the channels of `tensor`, or with its sizes if that is a constant."""
        slots = slots_of(tensor)
        result = self.make(shape_of(tensor), slots)
        result.spread = {} if slots else getattr(tensor, "spread", {})
        return result

    def resized(self, tensor: Any, shape: Sequence[int], window: Sequence[int] = ()) -> Proxy:
        """Make a result of another size along some axes; channels along these are protected.

        `window` has the sizes of a window over the last axes: it combines neighbours, also where the size stays.
        """
        slots = []
        mixed = [len(shape) - len(window) + number for number, size in enumerate(window) if size > 1]
        for slot in slots_of(tensor):
            changed = [axis for axis in varying(slot) if slot.size(axis) != shape[axis] or axis in mixed]
            if changed and 1 in varying(slot) and 1 not in changed and slot.dim() > 3:  # a vector viewed as a map
                positions = [axis for axis in varying(slot) if axis > 1]
                slot = self.table.unite_along(slot, positions, self.where).expand(slot.shape)
            elif changed:
                self.table.freeze(slot, f"lies along an axis that {self.where} resamples")
                continue
            slots.append(squeezed(slot))
        return self.make(shape, slots)

    def copied(self, tensor: Any, result: Any, sizes: Sequence[Any]) -> Any:
        """Note which axes of a result hold copies of one element, with their requested `sizes`; return the result."""
        if isinstance(tensor, Proxy):
            own, shape = shape_of(tensor), shape_of(result)
            lacking = len(shape) - len(own)
            kept = {} if tensor.slots else {axis + lacking: size for axis, size in tensor.spread.items()}
            result.spread = {axis: size for axis, size in kept.items() if shape[axis] == own[axis - lacking]} | {
                axis: size
                for axis, size in enumerate(sizes)
                if shape[axis] > 1 and (axis < lacking or own[axis - lacking] == 1)
            }
        return result

    def moved(self, tensor: Any, move: Callable[[Tensor], Tensor]) -> Any:
        """Make the result of an operator that moves or selects elements of one tensor; move an ordinary tensor itself."""
        if not isinstance(tensor, Proxy):
            return move(tensor)
        slots = [canonical(move(slot)) for slot in tensor.slots]
        shape = slots[0].shape if slots else move(blank(tensor)).shape
        result = self.make(shape, slots)
        result.rows = tuple([canonical(move(row)) for row in tensor.rows])
        result.wild, result.multiplied = result.wild or tensor.wild, tensor.multiplied
        if shape.numel() == shape_of(tensor).numel():  # a part alone could not be scaled by them
            result.factors = tensor.factors
        return result


def _naming(operand: Tensor) -> tuple[bool, int]:
    """Sort key for the operands of a computed weight: a parameter, then the largest, names its channels."""
    origins = operand.origins if isinstance(operand, Proxy) else ()
    return not any(isinstance(origin, nn.Parameter) for origin in origins), -shape_of(operand).numel()


def same_rows(first: Any, second: Any) -> bool:
    """Whether two tensors scale with the same rows of the same weights."""
    ours, theirs = ([torch.unique(squeezed(row)) for row in getattr(tensor, "rows", ())] for tensor in (first, second))
    equal = len(ours) == len(theirs) and all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    return equal and bool(ours)
