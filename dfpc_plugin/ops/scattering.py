"""Writing at positions that an index tensor gives: `scatter`, and adding there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.ops.indexing import united_beside
from dfpc_plugin.ops.record import BOUND, operator
from dfpc_plugin.tracing.operator import forms
from dfpc_plugin.tracing.proxy import Proxy, shape_of


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
