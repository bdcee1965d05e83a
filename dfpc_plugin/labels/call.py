"""One operation of a forward, as its label rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dfpc_plugin.flow.calls import result_dtype
from dfpc_plugin.flow.tree import map_tensors, tensors
from dfpc_plugin.labels.axes import canonical, squeezed, varying
from dfpc_plugin.labels.combine import Operand, laid_out, meet, sum_away
from dfpc_plugin.labels.notes import CallNotes
from dfpc_plugin.labels.tensor import LabelTensor, blank, shape_of

if TYPE_CHECKING:
    from dfpc_plugin.labels.run import LabelRun

__all__ = ["LabelCall", "same_rows", "value_of"]


class LabelCall(CallNotes):
    """First argument of a label rule: makes its results and notes its demands.

    Attributes:
        value: Computes the operator's actual result where no operand is data; None otherwise.
    """

    def __init__(
        self, run: LabelRun, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], stand_ins: list[LabelTensor]
    ) -> None:
        """Look at the operands."""
        super().__init__(run, func)
        self._args, self._kwargs, self._stand_ins = args, kwargs, stand_ins
        self.value: Callable[[], Any] | None = None
        if all(stand_in.value is not None for stand_in in stand_ins):
            self.value = _once(lambda: func(*map_tensors(value_of, args), **map_tensors(value_of, kwargs)))

    @cached_property
    def _dtype(self) -> torch.dtype:
        flows: list[Any] = [s for s in self._stand_ins if s.is_data] or self._stand_ins
        return result_dtype(self._func, flows, self._args, self._kwargs)

    @cached_property
    def _device(self) -> torch.device:
        return next((s.device for s in self._stand_ins if s.is_data), self._stand_ins[0].device)

    def make(self, shape: Sequence[int], slots: Iterable[Tensor | None] = (), part: Any = None) -> LabelTensor:
        """Make a result; `slots` are expanded to `shape`. `part` is its position in a sequence of results."""
        shape = torch.Size(int(size) for size in shape)
        value = self.value
        if value is not None and part is not None:
            whole = value
            value = _once(lambda: whole()[part])
        kept = tuple(slot.expand(shape) for slot in slots if slot is not None)
        wild = value is not None and not kept and all(stand_in.wild for stand_in in self._stand_ins)
        return LabelTensor(shape, kept, self.run, self._dtype, self._device, value, wild)

    def expanded(self, slots: Iterable[Tensor], target: LabelTensor) -> tuple[Tensor, ...]:
        """Expand slots to the shape of `target`."""
        return tuple(slot.expand(shape_of(target)) for slot in slots)

    def constant(self) -> LabelTensor:
        """Make a constant of the shape of data."""
        value = self._func(*map_tensors(_stand_in, self._args), **map_tensors(_stand_in, self._kwargs))
        return LabelTensor(value.shape, (), self.run, value.dtype, value.device, lambda: value, wild=True)

    def opaque(self, args: tuple, kwargs: dict[str, Any], reason: str = "has no label rule") -> Any:
        """Make the result of an operator whose effect on channels is not known: its operands' channels stay."""
        for tensor in tensors((args, kwargs)):
            if isinstance(tensor, LabelTensor):
                for slot in tensor.slots:
                    self.freeze(slot, f"enters {self.where}, which {reason}")
        return map_tensors(lambda meta: self.make(meta.shape), self.on_meta(args, kwargs))

    def on_meta(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the operator on shapes alone."""
        return self._func(*map_tensors(_meta, args), **map_tensors(_meta, kwargs))

    def elementwise(self, *operands: Any) -> LabelTensor:
        """Make the result of an operator that acts on entries that broadcasting brings together."""
        given = [operand for operand in operands if isinstance(operand, Tensor)]
        shapes = [shape_of(operand) for operand in given]
        shape = shapes[0] if all(s == shapes[0] for s in shapes) else torch.broadcast_shapes(*shapes)
        if len(given) == 1:
            return self.make(shape, getattr(given[0], "slots", ()))
        merged = meet(self.table, [self._broadcast(operand, shape) for operand in given], self.where)
        return self.make(shape, merged)

    def per_channel(self, input: Any, vectors: Sequence[Any], *, first: int = 0) -> LabelTensor:
        """Make `input`, with entries of its axis one in the channels of the entries of `vectors`.

        The result's channels are named by the operand number `first`: 0 for the input, n for the n-th vector.
        """
        shape = shape_of(input)
        place: Any = (None, slice(None), *(None,) * (len(shape) - 2))
        operands = [self._broadcast(input, shape)]
        seen: set[int] = set()
        for number, vector in enumerate(vectors, start=1):
            labels = {id(slot) for slot in getattr(vector, "slots", ())}
            if labels and labels <= seen and number != first:
                continue  # a bias or statistics that share the labels of a weight seen before
            seen |= labels
            slots = tuple(slot[place] for slot in getattr(vector, "slots", ()))
            extents = frozenset({1} if shape_of(vector)[0] > 1 else ())
            operands.append(Operand(slots, extents, getattr(vector, "wild", False)))
        operands.insert(0, operands.pop(first))
        return self.make(shape, meet(self.table, operands, self.where))

    def _broadcast(self, tensor: Tensor, shape: torch.Size) -> Operand:
        """Lay a tensor out on the axes of a broadcast result."""
        own = shape_of(tensor)
        lacking = len(shape) - len(own)
        extents = frozenset(axis + lacking for axis, size in enumerate(own) if size > 1)
        if not isinstance(tensor, LabelTensor):
            return Operand((), extents)
        slots = tensor.slots
        if lacking:
            slots = tuple(slot[(None,) * lacking] for slot in slots)
        return Operand(slots, extents, tensor.wild, {axis + lacking: size for axis, size in tensor.spread.items()})

    def einsum(
        self, operands: Sequence[tuple[Tensor, Sequence[Any]]], output: Sequence[Any], *, work: bool = False
    ) -> LabelTensor:
        """Make the sum of products over the axes that `output` lacks; axes are named by `operands`.

        With `work`, its multiply-accumulates are noted; a product with a weight is a layer.
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
                tuple(laid_out(slot, list(letters), axes) for slot in getattr(tensor, "slots", ())),
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
        if all(isinstance(tensor, LabelTensor) and tensor.is_data for tensor, _ in operands):
            first, second = operands[0][0], operands[-1][0]
            if getattr(first, "linear", False) and not same_rows(first, second):
                result.factor = getattr(first, "slots", ())
        return result

    def same(self, tensor: Any, shape: Sequence[int] | None = None) -> LabelTensor:
        """Make a result whose entries belong to the channels of `tensor`, on another shape where they do not vary."""
        return self.make(shape_of(tensor) if shape is None else shape, getattr(tensor, "slots", ()))

    def resized(self, tensor: Any, shape: Sequence[int]) -> LabelTensor:
        """Make a result of another size along some axes; channels along these stay."""
        slots = []
        for slot in getattr(tensor, "slots", ()):
            changed = [axis for axis in varying(slot) if slot.size(axis) != shape[axis]]
            if changed:
                self.freeze(slot, f"lies along an axis that {self.where} resamples")
                continue
            narrow = slot[tuple(slice(None) if axis in varying(slot) else slice(0, 1) for axis in range(slot.dim()))]
            slots.append(narrow)
        return self.make(shape, slots)

    def moved(self, tensor: Any, move: Callable[[Tensor], Tensor]) -> Any:
        """Make the result of an operator that moves, copies or picks entries of one tensor.

        An ordinary tensor, which takes only its shape from labelled ones, is moved itself.
        """
        if not isinstance(tensor, LabelTensor):
            return move(tensor)
        slots = [canonical(move(slot)) for slot in tensor.slots]
        shape = slots[0].shape if slots else move(blank(tensor)).shape
        result = self.make(shape, slots)
        result.linear = tensor.linear or (tensor.original is not None)
        if tensor.wild:
            result.wild, result.viewed = True, (tensor, move)
        return result


def same_rows(first: Any, second: Any) -> bool:
    """Whether two tensors are named by the same rows of the same weights."""
    ours, theirs = (
        [torch.unique(squeezed(slot)) for slot in getattr(tensor, "slots", ())] for tensor in (first, second)
    )
    return len(ours) == len(theirs) and all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _once(compute: Callable[[], Any]) -> Callable[[], Any]:
    """Compute at most once."""
    results: list[Any] = []

    def value() -> Any:
        if not results:
            results.append(compute())
        return results[0]

    return value


def value_of(tensor: Tensor) -> Tensor:
    """The actual values of weights and constants."""
    return tensor.value() if isinstance(tensor, LabelTensor) and tensor.value is not None else tensor


def _stand_in(tensor: Tensor) -> Tensor:
    """An ordinary tensor of the same shape, dtype and device."""
    return torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(shape_of(tensor))


def _meta(tensor: Tensor) -> Tensor:
    """The shape and dtype alone."""
    return torch.empty(shape_of(tensor), dtype=tensor.dtype, device="meta")
