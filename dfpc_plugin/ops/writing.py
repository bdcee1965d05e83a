"""Assignments to elements of tensors, and writing at positions that an index tensor gives: `scatter`, and adding there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.errors import ValueDependentError
from dfpc_plugin.ops.indexing import at, is_known, note_positions, on_labels, spread_of_part, united_beside
from dfpc_plugin.ops.record import BOUND, EXACT, composed, operator
from dfpc_plugin.tracing.axes import canonical, spread_out
from dfpc_plugin.tracing.operator import Means, forms
from dfpc_plugin.tracing.proxy import Proxy, shape_of

_writes = partial(operator, convention=EXACT, means=Means.LINEAR, kind="writes")


def _setitem_channels(call: ChannelCall, input: Any, index: Any, value: Any) -> Any:
    """Replace labels; elements that are overwritten are united with what is written."""
    if not isinstance(value, Proxy):
        note_positions(call, input, index)
        return call.same(input)
    if not is_known(index):
        raise ValueDependentError("torch.Tensor.__setitem__", call.caller)
    plain = on_labels(index)
    slots = [slot.clone() for slot in input.slots]
    region = call.moved(input, lambda slot: slot[plain])
    region.spread = {} if region.slots else spread_of_part(input, index, plain)
    written = call.elementwise(region, value)
    for number, slot in enumerate(written.slots):
        if number == len(slots):
            slots.append(spread_out(slot, shape_of(input)))
        slots[number][plain] = slot
    if input.wild or input.spread:
        slots = [_everywhere(slot) for slot in slots]
    result = call.make(input.shape, map(canonical, slots))
    result.spread = input.spread
    return result


def _everywhere(slot: Tensor) -> Tensor:
    """Give a channel also the elements of a canvas that nothing was written to, such as the frames that a shift leaves empty."""
    for axis in range(slot.dim()):
        whole = slot.amax(axis, keepdim=True)
        if bool(((slot == 0) | (slot == whole)).all()):
            slot = torch.where(slot == 0, whole, slot)
    return slot


@_writes(Tensor.__setitem__, channels=_setitem_channels, couples=True, context=True)
def setitem(flow: LayerContext, input: Tensor, index: Any, value: Any) -> Tensor:
    """Replaces elements; a constant has bound zero."""
    out = input.clone() if flow.is_data("input") else torch.zeros_like(input)
    out[index] = value if flow.is_data("value") else 0
    return out


def _copy_channels(call: ChannelCall, input: Any, src: Any, non_blocking: bool = False) -> Any:
    return call.elementwise(input, src)


@_writes(
    Tensor.copy_, Tensor.data.__set__,  # type: ignore[attr-defined]
    channels=_copy_channels, couples=True, additive=True,
)  # fmt: skip
def copy(input: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """Replaces all elements."""
    return src.expand(input.shape)


def _scattered_channels(call: ChannelCall, input: Any, dim: int, index: Any, *args: Any, **kwargs: Any) -> Proxy:
    """Unite the channels of all operands along the other axes; protect those along the axis of the positions."""
    shape = shape_of(input)
    axis = int(dim) % len(shape)
    beside = []
    for part in (input, index, *args, *kwargs.values()):
        own = shape_of(part) if isinstance(part, Tensor) else torch.Size()
        fits = len(own) == len(shape) and all(own[n] == size for n, size in enumerate(shape) if n != axis)
        call.protect(part, f"is written at positions in {call.where}", axis if fits else None)
        beside += [part] if fits else []
    return call.make(shape, united_beside(call, beside, axis))


@operator(
    *forms("scatter", "scatter_add", "scatter_reduce", "index_add"),
    convention=BOUND, channels=_scattered_channels, couples=True, first_only=False, kind="writes", context=True,
)  # fmt: skip
def scatter(
    flow: LayerContext, input: Tensor, dim: int, index: Tensor, src: Any = 0.0, *args: Any, **kwargs: Any
) -> Tensor:
    """x + the sum of what is written, along the axis: every position may get all of it."""
    result = input if flow.is_data("input") else torch.zeros_like(input)
    written = kwargs.get("source", src)
    if not isinstance(written, Tensor) or not flow.is_data("source" if "source" in kwargs else "src"):
        return result.clone()
    level = written.sum(dim, keepdim=True)
    fits = all(own in (1, size) for own, size in zip(level.shape, input.shape, strict=True))
    return result + (level if fits else written.sum()).expand(input.shape)


def _assigns(name: str, spelled: Callable[..., tuple[Any, Any]]) -> None:
    """Register a function that is an assignment; `spelled` makes index and value from its arguments."""
    for function in forms(name):
        in_place = function.__name__.endswith("_")

        def assign(input: Tensor, *args: Any, _in_place: bool = in_place, **kwargs: Any) -> Tensor:
            """Replaces elements by an assignment."""
            index, value = spelled(input.dim(), *args, **kwargs)
            result = input if _in_place else input.clone()
            result[index] = value
            return result

        composed(function)(assign)


_assigns("index_copy", lambda rank, dim, index, source: (at(rank, dim, index), source))
_assigns("index_fill", lambda rank, dim, index, value: (at(rank, dim, index), value))
_assigns("select_scatter", lambda rank, src, dim, index: (at(rank, dim, index), src))
_assigns(
    "slice_scatter",
    lambda rank, src, dim=0, start=None, end=None, step=1: (at(rank, dim, slice(start, end, step)), src),
)
