"""Linear layers: each ends the couplings that reach it and starts a new one.

For the matrix M of such a layer, in absolute values:

    read:   total = sum(|M| x)          every output changes by at most its entry of |M| x
    write:  u = |M| 1                   the largest output for inputs bounded by one

Neither needs |M| x: the read needs M summed over outputs, the write needs it summed over inputs. In a pass over
expected errors, a layer writes the variances of its outputs, given those of its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.moments import mean_of, real_values
from dfpc_plugin.ops.geometry import require_channels
from dfpc_plugin.ops.record import BOUND, EXACT, composed, operator
from dfpc_plugin.tracing.axes import along, squeezed, varying
from dfpc_plugin.tracing.operator import forms
from dfpc_plugin.tracing.proxy import is_data, shape_of, slots_of, value_of


def per_channel_sum(input: Tensor, axes: int) -> Tensor:
    """Sum `(..., C, *axes)` to `(C,)`."""
    others = _other_axes(input, axes)
    return input.sum(others) if others else input


def variances_by_channel(input: Tensor, axes: int) -> Tensor:
    """Average the variances of `(..., C, *axes)` by channel."""
    others = _other_axes(input, axes)
    return input.detach().mean(others) if others else input.detach()


def _other_axes(input: Tensor, axes: int) -> list[int]:
    """All axes of `(..., C, *axes)` but the channel axis; may be empty, which torch's `sum` would take for all axes."""
    channel = input.dim() - axes - 1
    return [dim for dim in range(input.dim()) if dim != channel]


def row_sums(flow: LayerContext, weight: Tensor, input: Tensor, axes: int, groups: int) -> Tensor:
    """Sum `weight (groups * C_out, C_in, ...)` over inputs, weighted by their variances in a variance pass."""
    require_channels(input.shape, -axes - 1, groups * weight.shape[1])
    if not flow.expected:
        return weight.sum(1)
    variances = variances_by_channel(input, axes)
    if groups == 1:
        return torch.tensordot(weight, variances, dims=([1], [0]))
    by_group = variances.view(groups, 1, -1, *(1,) * axes)
    return (weight.unflatten(0, (groups, -1)) * by_group).sum(2).flatten(0, 1)


def read_linear(flow: LayerContext, name: str, input: Tensor, weight: Tensor) -> None:
    """Read `input (..., C_in)` by the absolute matrix `weight (C_out, C_in)`."""
    flow.read(name, per_channel_sum(input, 0) @ weight.sum(0))


def write_linear(flow: LayerContext, name: str, weight: Tensor, input: Tensor, leading: Sequence[int]) -> Tensor:
    """Write the row sums of the absolute matrix `weight (C_out, C_in)`, expanded to `(*leading, C_out)`."""
    rows = row_sums(flow, weight, input, 0, 1)
    return flow.write(name, rows, channel_dim=0).expand(*leading, weight.shape[0])


def apply_linear(flow: LayerContext, name: str, input: Tensor, weight: Tensor) -> Tensor:
    """Read and write one linear layer; `weight (C_out, C_in)` may have signs."""
    weight = weight.abs()
    read_linear(flow, name, input, weight)
    leaf = flow.write(name, row_sums(flow, weight, input, 0, 1), 0, lambda: torch.nn.functional.linear(input, weight))
    return leaf.expand(*input.shape[:-1], weight.shape[0])


def weight_rows(weight: Any, output: Tensor, axis: int) -> tuple[Tensor, ...]:
    """Labels of a weight's rows, laid out along the output's axis `axis`."""
    shape = shape_of(output)
    place = along(axis, len(shape))
    rows = [squeezed(row) for row in getattr(weight, "rows", ()) if varying(row) == (0,)]
    return tuple([row.reshape(place).expand(shape) for row in rows])


def _linear_channels(call: ChannelCall, input: Any, weight: Any, bias: Any = None) -> Any:
    """Read the last axis by the columns of the weight; write its rows."""
    leading = range(len(shape_of(input)) - 1)
    require_channels(shape_of(input), -1, shape_of(weight)[-1])
    call.layer(weight, input, reads=-1, writes=-2, along=-1, positions=shape_of(input)[:-1].numel())
    out = ["out"] if len(shape_of(weight)) > 1 else []
    result = call.einsum([(weight, [*out, "in"]), (input, [*leading, "in"])], [*leading, *out])
    if bias is not None:
        call.biased(weight, bias)
        result = call.elementwise(result, bias)
    result.rows = weight_rows(weight, result, len(leading)) if out else ()
    result.multiplied = not call.call.data
    return result


def _linear_noise(given: Mapping[str, Any], variance: Tensor) -> Any:
    """W m + b."""
    mean, weight = mean_of(given.get("input")), given.get("weight")
    if mean is None or is_data(weight) or weight is None or (mean.dim() > 1 and mean.shape[:-1].numel() > 1):
        return variance, None
    if value_of(weight).is_complex():  # expected values are real
        return variance, None
    matrix = real_values(weight).to(variance.dtype)
    mapped = mean.reshape(-1).expand(matrix.shape[1]) @ matrix.t()
    bias = given.get("bias")
    return variance, mapped if bias is None else mapped + real_values(bias).to(variance.dtype)


@operator(
    *forms("linear"), convention=EXACT, channels=_linear_channels, noise=_linear_noise, context=True, kind="layer"
)
def linear(flow: LayerContext, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """|W| x, bias dropped: read sum(|W| x), write |W| 1."""
    if not flow.is_data("input"):  # the weight depends on data
        return torch.nn.functional.linear(input.abs(), weight)
    return apply_linear(flow, flow.name("weight"), input, weight)


def _bilinear_channels(call: ChannelCall, input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    leading = range(len(shape_of(input1)) - 1)
    operands = [(weight, ["out", "one", "two"]), (input1, [*leading, "one"]), (input2, [*leading, "two"])]
    result = call.einsum(operands, [*leading, "out"], work=True)
    return result if bias is None else call.elementwise(result, bias)


@operator(*forms("bilinear"), channels=_bilinear_channels, context=True, kind="layer")
def bilinear(flow: LayerContext, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """|W| x + |W| y, each with the other input assumed of size one: reads both, writes |W| 1."""
    name, weight = flow.name("weight"), weight.abs()
    if flow.is_data("input1"):
        read_linear(flow, name, input1, weight.sum(2))
    if flow.is_data("input2"):
        read_linear(flow, name, input2, weight.sum(1))
    return flow.write(name, weight.sum((1, 2)), channel_dim=0).expand(*input1.shape[:-1], weight.shape[0])


def _embedding_channels(call: ChannelCall, input: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """Write the columns of the table; protect its rows."""
    slots = []
    for slot in slots_of(weight):
        if slot.stride(0):
            call.table.freeze(slot, f"is a row of the table in {call.where}")
        else:
            slots.append(slot[0])
    call.protect(input, f"is a position in {call.where}")
    if call.call.data:
        call.written(weight, 1)
    return call.make((*shape_of(input), shape_of(weight)[1]), slots, dtype=weight.dtype)


@operator(torch.nn.functional.embedding, convention=BOUND, channels=_embedding_channels, context=True, kind="layer")
def embedding(flow: LayerContext, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Writes the largest |W[token, c]| over tokens; reads nothing."""
    return flow.write(flow.name("weight"), weight.abs().amax(0), channel_dim=0).expand(*input.shape, weight.shape[1])


@composed(torch.embedding)
def embedding_of_weight(weight: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
    """An embedding, with the table as first argument."""
    return torch.nn.functional.embedding(indices, weight)
