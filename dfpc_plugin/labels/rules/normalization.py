"""Norms: statistics over positions or channels, then a weight and a bias per channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.flow.registry import forms
from dfpc_plugin.labels.axes import varying
from dfpc_plugin.labels.call import LabelCall
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.tensor import LabelTensor, shape_of

__all__: list[str] = []


def _per_channel(call: LabelCall, input: Any, weight: Any, bias: Any, *statistics: Any) -> Any:
    """Meet vectors with axis one. Of data, the result's channels are named by the weight, which made them last."""
    vectors = [vector for vector in (weight, bias, *statistics) if vector is not None]
    by_weight = weight is not None and (not isinstance(input, LabelTensor) or input.is_data)
    if by_weight and bias is not None:
        call.biased(weight, bias)
    result = call.per_channel(input, vectors, first=1 if by_weight else 0)
    result.linear = by_weight and call.is_parameter(weight)
    return result


@label_rule(*forms("batch_norm", "instance_norm"))
def batch_norm(
    call: LabelCall, input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None,
    bias: Any = None, *args: Any, **kwargs: Any,
) -> Any:
    """Statistics, weight and bias per channel, of which the module says how many there are."""
    call.described(input, "num_features")
    return _per_channel(call, input, weight, bias, running_mean, running_var)


@label_rule(*forms("layer_norm", "rms_norm"))
def layer_norm(
    call: LabelCall, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Statistics over the last axes, whose sizes it asks for; a weight per entry of them."""
    sizes = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
    rank = len(shape_of(input))
    for slot in getattr(input, "slots", ()):
        for offset, size in enumerate(reversed(sizes)):
            if rank - 1 - offset in varying(slot):
                call.size(slot, rank - 1 - offset, size)
    given = [v for v in (weight, bias) if isinstance(v, Tensor)]
    if isinstance(bias, Tensor) and isinstance(weight, LabelTensor):
        call.biased(weight, bias)
    if not given:
        return call.same(input)
    result = call.elementwise(*given[:1], input, *given[1:])
    result.linear = isinstance(weight, Tensor) and len(sizes) == 1 and call.is_parameter(weight)
    return result


@label_rule(*forms("group_norm"))
def group_norm(
    call: LabelCall, input: Any, num_groups: Any, weight: Any = None, bias: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Statistics over groups of channels, which keep equally many; weight and bias per channel."""
    count = int(num_groups)
    call.described(input, "num_channels")
    for slot in getattr(input, "slots", ()):
        if 1 in varying(slot) and count > 1:
            rows = slot.unflatten(1, (count, -1))
            call.size(rows, 1, num_groups)
            if slot.size(1) > count:
                call.size(rows, 2, None, flexible=2)
    return _per_channel(call, input, weight, bias)


@label_rule(*forms("local_response_norm"))
def local_response_norm(call: LabelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Mixes neighbouring channels: after a cut others would be neighbours, so they stay."""
    for slot in input.slots:
        call.freeze(slot, f"mixes neighbours in {call.where}")
    return call.same(input)


@label_rule(torch._weight_norm)
def weight_norm(call: LabelCall, v: Any, g: Any, dim: int = 0) -> Any:
    """A direction and a length per entry of one axis."""
    return call.elementwise(v, g)
