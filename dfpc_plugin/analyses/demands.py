"""Constraints of one operation of a forward (sizes and protected channels), and its MACs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.analyses.table import LabelTable, Scaling, Sized, Work
from dfpc_plugin.tracing.axes import NO_LABELS, inner_axis, listed, squeezed, varying
from dfpc_plugin.tracing.operator import function_name
from dfpc_plugin.tracing.proxy import Proxy, is_data, shape_of, slots_of
from dfpc_plugin.tracing.sizes import Casts, Expression, TracedInt, expression_of, leaves_of
from dfpc_plugin.tracing.traced_run import TracedRun

WITHOUT_DATA = " (without data)"
"""Suffix in messages on operators on parameters alone, such as those that compute a weight."""

COMPUTED = " through a computed weight"
"""Suffix in messages on a layer whose weight lost its labels while it was computed."""


class Notebook:
    """Where the constraints of a pass are noted.

    `work` are calls of layers and matrix products, `twins` labels of weights' outputs and of the biases added to them, `scaled`
    elements multiplied by numbers that depend on widths, and `casts` plain numbers that the forward made from widths.
    """

    def __init__(self, run: TracedRun) -> None:
        """Start without notes on `run`."""
        self.run, self.names = run, run.names
        self.table, self.casts = LabelTable(), Casts()
        self.work: list[Work] = []
        self.twins: list[tuple[Tensor, Tensor]] = []
        self.scaled: list[Scaling] = []


class Demands:
    """Notes the constraints of an operation in `notes` and in their `table` of labels."""

    def __init__(self, notes: Notebook, func: Callable[..., Any], *, weights: bool = False) -> None:
        """Note constraints of one call of `func`; `weights`: it computes a weight from parameters, without data."""
        self.notes, self.table, self._func, self._weights = notes, notes.table, func, weights

    @cached_property
    def where(self) -> str:
        """Operator and module, for messages."""
        place = f" in '{module}'" if (module := self.caller) else ""
        return f"{function_name(self._func)}{place}{WITHOUT_DATA if self._weights else ''}"

    @property
    def caller(self) -> str | None:
        """Path of the module that calls the operator."""
        return self.notes.names.caller()

    @property
    def name(self) -> str:
        """The operator's own name."""
        return getattr(self._func, "__name__", "").strip("_")

    def protect(self, tensor: Any, reason: str, along: int | None = None) -> None:
        """Protect the channels of a tensor, or only those along one axis."""
        for slot in slots_of(tensor):
            if along is None or along in varying(slot):
                self.table.freeze(slot, reason)

    def size(self, slot: Tensor, axis: int, size: Any, *, flexible: int | None = None) -> None:
        """Require that `slot` keeps `size` elements along `axis`; None: equally many in every row."""
        flexible = inner_axis(slot) if flexible is None else flexible
        if flexible is not None and (size is not None or len(varying(slot)) > 1):
            expression = None if size is None else expression_of(size)
            if type(expression) is int and expression == slot.size(axis):
                expression = self.notes.casts.origin_of(expression, self.notes.names.caller) or expression
            self.table.sizes.append(Sized(squeezed(slot), axis, expression, flexible, self.where))

    def bounded(self, slot: Tensor, axis: int, bound: int) -> None:
        """Require that as many channels precede the slice bound `bound` as it says (or follow it, if it is negative)."""
        position, size = int(bound), slot.size(axis)
        if 0 < position < size:
            self.size(slot.narrow(axis, 0, position), axis, bound, flexible=inner_axis(slot))
        elif -size < position < 0:
            self.size(slot.narrow(axis, size + position, -position), axis, -bound, flexible=inner_axis(slot))

    def read(self, written: Proxy) -> None:
        """Require the requested sizes of a constant that channels were written into."""
        for axis, bound in (*written.spread.items(), *written.ends):
            slot = written.labels_along(axis)
            if slot is None or bound is None:
                continue
            if bound == slot.size(axis):
                self.size(slot, axis, bound)
            else:
                self.bounded(slot, axis, bound)

    def described(self, input: Tensor, attribute: str) -> None:
        """Note that `attribute` of the running module states the number of its input's channels, on axis one."""
        module = self.notes.names.module()
        said = vars(module).get(attribute) if module is not None else None
        slot = input.labels_along(1) if isinstance(input, Proxy) else None
        if isinstance(said, TracedInt) and slot is not None and said == slot.size(1):
            self.size(slot, 1, said)

    def layer(self, weight: Tensor, input: Tensor, *, reads: int, writes: int, along: int, positions: int) -> None:
        """Note that a layer reads the channels along axis `reads` of `weight` and writes those along axis `writes`.

        The input is read along the axis `along`; channels along other axes, such as tokens, share its MACs. `positions` is how
        often each element of the weight is used.
        """
        macs = shape_of(weight).numel() * positions
        rank, depth = len(shape_of(weight)), len(shape_of(input))
        factors = [*_factors(weight, range(rank)), *_factors(input, range(rank, rank + depth), but=along % depth)]
        read, written = _along(weight, reads), _along(weight, writes)
        if isinstance(weight, Proxy) and weight.origins and weight.original is None and not weight.holds_data:
            if not len(read) and shape_of(weight)[reads] > 1:
                self._unfollowed(input, along)
            if not len(written) and shape_of(weight)[writes] > 1:
                written = self._original_outputs(weight, writes)
        parts = read, written, _all_labels(input)
        self.notes.work.append(Work(*parts, macs, tuple(factors)))

    def _unfollowed(self, input: Tensor, along: int) -> None:
        """Protect the input channels of a computed weight that lost its labels."""
        for slot in slots_of(input):
            if slot.size(along) > 1 and slot.stride(along):
                self.table.freeze(slot, f"is read by {self.where}{COMPUTED} that could not be followed")

    def _original_outputs(self, weight: Proxy, writes: int) -> Tensor:
        """Labels, along the same axis, of the parameter that a computed weight comes from."""
        parameters = [origin for origin in weight.origins if isinstance(origin, nn.Parameter)]
        originals = [self.notes.run.state.get(id(parameter)) for parameter in parameters]
        alike = [original for original in originals if original is not None and shape_of(original) == shape_of(weight)]
        return _along(alike[0], writes) if alike else NO_LABELS

    def written(self, weight: Tensor, axis: int) -> None:
        """Note that channels along one axis of `weight` are written without MACs, as by an embedding."""
        self.notes.work.append(Work(NO_LABELS, _along(weight, axis), NO_LABELS, 0))

    def biased(self, weight: Tensor, bias: Tensor) -> None:
        """Note that `bias` scales with the outputs of `weight`."""
        for slot in slots_of(bias):
            self.notes.twins.append((_along(weight, 0), listed(slot)))

    def scaled(self, tensor: Tensor, expression: Expression, power: int = 1) -> None:
        """Note that `tensor` is multiplied by a number that depends on widths (or divided, with power -1)."""
        if next(leaves_of(expression), None) is None or not isinstance(tensor, Proxy):
            return
        choices = (tensor.rows,) if tensor.rows else tensor.factors
        if choices or tensor.slots or tensor.multiplied:
            labels = [torch.unique(torch.cat([listed(row) for row in rows])) for rows in choices]
            self.notes.scaled.append(Scaling(tuple([some[some > 0] for some in labels]), expression, power, self.where))

    def note_work(self, operands: Sequence[tuple[Tensor, Sequence[Any]]], output: Sequence[Any]) -> None:
        """Note the MACs of a sum of products, and the channels of weights that it reads and writes, if any factor is data."""
        sizes = {c: int(n) for t, letters in operands for c, n in zip(letters, shape_of(t), strict=True)}
        reads, writes = [NO_LABELS], [NO_LABELS]
        is_layer = any(is_data(tensor) for tensor, _ in operands)
        for tensor, letters in operands if is_layer else ():
            if isinstance(tensor, Proxy) and not tensor.holds_data and not tensor.multiplied and len(letters) > 1:
                for axis, letter in enumerate(letters):
                    (writes if letter in output else reads).append(_along(tensor, axis))
        carried = torch.cat([_all_labels(tensor) for tensor, _ in operands])
        names = {letter: number for number, letter in enumerate(sizes)}
        factors = [factor for t, letters in operands for factor in _factors(t, [names[letter] for letter in letters])]
        parts = torch.cat(reads), torch.cat(writes), carried
        self.notes.work.append(Work(*parts, math.prod(sizes.values()), tuple(factors)))


def _factors(tensor: Tensor, names: Sequence[int], but: int | None = None) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Labels of every slot with the names of its axes, without slots that vary along the axis `but`."""
    for slot in slots_of(tensor):
        if but is None or slot.size(but) == 1 or not slot.stride(but):
            yield slot, tuple(names)


def _along(tensor: Tensor, axis: int) -> Tensor:
    """Labels along one axis, `(entries,)`; empty without channels."""
    rank = len(shape_of(tensor))
    if isinstance(tensor, Proxy) and -rank <= axis < rank:
        slot = tensor.labels_along(axis % rank)
        if slot is not None:
            return listed(slot)
    return NO_LABELS


def _all_labels(tensor: Tensor) -> Tensor:
    return torch.cat([NO_LABELS, *map(listed, slots_of(tensor))])
