"""One operation of a forward, as its label rule sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dfpc_plugin.flow.calls import result_dtype
from dfpc_plugin.flow.registry import function_name
from dfpc_plugin.flow.tree import map_tensors, tensors
from dfpc_plugin.labels.axes import canonical, inner_axis, squeezed, varying
from dfpc_plugin.labels.combine import Operand, laid_out, meet, sum_away
from dfpc_plugin.labels.sizes import Expression, TracedInt, expression_of, leaves_of
from dfpc_plugin.labels.table import Scaling, Sized, Work
from dfpc_plugin.labels.tensor import LabelTensor, shape_of

if TYPE_CHECKING:
    from dfpc_plugin.labels.run import LabelRun

__all__ = ["LabelCall"]


class LabelCall:
    """First argument of a label rule: makes its results and notes its demands.

    Attributes:
        run: The pass.
        table: Its labels and demands.
        value: Computes the operator's actual result where no operand is data; None otherwise.
    """

    def __init__(
        self, run: LabelRun, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], stand_ins: list[LabelTensor]
    ) -> None:
        """Look at the operands."""
        self.run, self.table = run, run.table
        self._func, self._args, self._kwargs, self._stand_ins = func, args, kwargs, stand_ins
        self.value: Callable[[], Any] | None = None
        if all(stand_in.value is not None for stand_in in stand_ins):
            self.value = _once(lambda: func(*map_tensors(_value, args), **map_tensors(_value, kwargs)))

    @cached_property
    def where(self) -> str:
        """Operator and module, for messages."""
        module = self.run.names.caller()
        return f"{function_name(self._func)}" + (f" in '{module}'" if module else "")

    @property
    def name(self) -> str:
        """The operator's own name."""
        return getattr(self._func, "__name__", "").strip("_")

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

    def opaque(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Make the result of an operator whose effect on channels is not known: its operands' channels stay."""
        for tensor in tensors((args, kwargs)):
            if isinstance(tensor, LabelTensor):
                for slot in tensor.slots:
                    self.freeze(slot, f"enters {self.where}, which has no label rule")
        return map_tensors(lambda meta: self.make(meta.shape), self.on_meta(args, kwargs))

    def on_meta(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the operator on shapes alone."""
        return self._func(*map_tensors(_meta, args), **map_tensors(_meta, kwargs))

    def freeze(self, slot: Tensor, reason: str) -> None:
        """Demand that no channel of `slot` goes."""
        self.table.freeze(slot, reason)

    def size(self, slot: Tensor, axis: int, size: Any, *, flexible: int | None = None) -> None:
        """Demand that `slot` keeps `size` entries along `axis`; None: as many in every row."""
        flexible = inner_axis(slot) if flexible is None else flexible
        if flexible is not None and (size is not None or len(varying(slot)) > 1):
            expression = None if size is None else expression_of(size)
            self.table.sizes.append(Sized(squeezed(slot), axis, expression, flexible, self.where))

    def described(self, input: Tensor, attribute: str) -> None:
        """Note that the module that runs says in `attribute` how many channels its input has on axis one."""
        said = vars(self.run.names.module() or self).get(attribute)
        slot = input.labels_along(1) if isinstance(input, LabelTensor) else None
        if isinstance(said, TracedInt) and slot is not None and said == slot.size(1):
            self.size(slot, 1, said)

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
        trailing = (None,) * (len(shape) - 2)
        operands = [self._broadcast(input, shape)]
        seen: set[int] = set()
        for number, vector in enumerate(vectors, start=1):
            labels = {id(slot) for slot in getattr(vector, "slots", ())}
            if labels and labels <= seen and number != first:
                continue  # a bias or statistics that share the labels of a weight seen before
            seen |= labels
            slots = tuple(slot[(None, slice(None), *trailing)] for slot in getattr(vector, "slots", ()))
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
            self._note_work(operands, output)
        sizes: dict[Any, int] = {}
        for tensor, letters in operands:
            for letter, size in zip(letters, shape_of(tensor), strict=True):
                sizes[letter] = max(int(size), sizes.get(letter, 1))
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
        return self.make([sizes[letter] for letter in output], kept)

    def layer(self, weight: Tensor, input: Tensor, *, reads: int, writes: int, positions: int) -> None:
        """Note that a layer reads the channels along one axis of `weight` and writes those along another.

        Channels that lie along the positions of `input`, which a layer over tokens carries along, share its work.
        """
        macs = shape_of(weight).numel() * positions
        carried = _all_labels(input)
        self.run.work.append(Work(_along(weight, reads), _along(weight, writes), carried, macs))

    def biased(self, weight: Tensor, bias: Tensor) -> None:
        """Note that `bias` scales with the outputs of `weight`."""
        for slot in getattr(bias, "slots", ()):
            self.run.twins.append((_along(weight, 0), squeezed(slot).reshape(-1)))

    def scaled(self, tensor: Tensor, expression: Expression, power: int = 1) -> None:
        """Note that `tensor` is multiplied by a number that depends on widths (or divided, with power -1)."""
        if not any(True for leaf in leaves_of(expression)):
            return
        for slot in getattr(tensor, "slots", ()):
            self.run.scaled.append(Scaling(torch.unique(squeezed(slot)), expression, power))

    def _note_work(self, operands: Sequence[tuple[Tensor, Sequence[Any]]], output: Sequence[Any]) -> None:
        """Note the multiply-accumulates of a sum of products, and which channels of weights it reads and writes."""
        sizes = {c: int(n) for t, letters in operands for c, n in zip(letters, shape_of(t), strict=True)}
        nothing = torch.zeros(0, dtype=torch.long)
        reads, writes = [nothing], [nothing]
        for tensor, letters in operands:
            if isinstance(tensor, LabelTensor) and not tensor.is_data and len(letters) > 1:
                for axis, letter in enumerate(letters):
                    (writes if letter in output else reads).append(_along(tensor, axis))
        carried = torch.cat([_all_labels(tensor) for tensor, _ in operands])
        self.run.work.append(Work(torch.cat(reads), torch.cat(writes), carried, math.prod(sizes.values())))

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
        shape = slots[0].shape if slots else move(_blank(tensor)).shape
        result = self.make(shape, slots)
        if tensor.wild:
            result.wild, result.viewed = True, (tensor, move)
        return result


def _along(tensor: Tensor, axis: int) -> Tensor:
    """Labels along one axis, `(entries,)`; none if there are no channels."""
    rank = len(shape_of(tensor))
    if isinstance(tensor, LabelTensor) and -rank <= axis < rank:
        slot = tensor.labels_along(axis % rank)
        if slot is not None:
            return squeezed(slot).reshape(-1)
    return torch.zeros(0, dtype=torch.long)


def _all_labels(tensor: Tensor) -> Tensor:
    """Labels of all slots, `(entries,)`."""
    slots = tensor.slots if isinstance(tensor, LabelTensor) else ()
    return torch.cat([squeezed(slot).reshape(-1) for slot in slots] or [torch.zeros(0, dtype=torch.long)])


def _blank(tensor: Tensor) -> Tensor:
    """Labels of a tensor without channels."""
    return torch.zeros((), dtype=torch.long).expand(shape_of(tensor))


def _once(compute: Callable[[], Any]) -> Callable[[], Any]:
    """Compute at most once."""
    results: list[Any] = []

    def value() -> Any:
        if not results:
            results.append(compute())
        return results[0]

    return value


def _value(tensor: Tensor) -> Tensor:
    """The actual values of weights and constants."""
    return tensor.value() if isinstance(tensor, LabelTensor) and tensor.value is not None else tensor


def _stand_in(tensor: Tensor) -> Tensor:
    """An ordinary tensor of the same shape, dtype and device."""
    return torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(shape_of(tensor))


def _meta(tensor: Tensor) -> Tensor:
    """The shape and dtype alone."""
    return torch.empty(shape_of(tensor), dtype=tensor.dtype, device="meta")
