"""Fused attention functions, by the rules of the products that they consist of."""

from __future__ import annotations

import inspect
import operator as operators
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.moments import mean_of
from dfpc_plugin.ops.linear import apply_linear, read_linear, write_linear
from dfpc_plugin.ops.products import product
from dfpc_plugin.ops.record import composed, operator
from dfpc_plugin.tracing.axes import varying
from dfpc_plugin.tracing.operator import present
from dfpc_plugin.tracing.proxy import is_data, shape_of, slots_of
from dfpc_plugin.tracing.sizes import Operation, expression_of


def _note_scale(call: ChannelCall, query: Any, scale: Any = None) -> None:
    """Note the scale of the logits: `scale`, or by default one over the square root of the head width."""
    width = query.shape[-1]
    default = Operation(operators.pow, (expression_of(width), -0.5))
    if scale is not None:
        known = getattr(scale, "expression", None) or call.notes.casts.origin_of(scale, call.notes.names.caller)
    call.scaled(query, default if scale is None else scale if known is None else known)


def _fused_channels(
    call: ChannelCall,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Product of queries and keys, then product of its softmax and the values."""
    if enable_gqa:
        repeats = shape_of(query)[-3] // shape_of(key)[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    _note_scale(call, query, scale)
    logits = product(call, query, key.transpose(-2, -1))
    if attn_mask is not None:
        logits = call.elementwise(logits, attn_mask)
    return product(call, logits, value)


_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)
_SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
    """The arguments of multi-head attention by their names."""
    bound = _MULTI_HEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments)


def _multi_head_channels(call: ChannelCall, *args: Any, **kwargs: Any) -> Any:
    """Projections around attention. torch requires the input, all heads together and the output to have one width."""
    given = _named(args, kwargs)
    for slot in slots_of(given.query):
        if slot.dim() - 1 in varying(slot):
            call.size(slot, slot.dim() - 1, given.embed_dim_to_check)
    separate = given.use_separate_proj_weight
    weights = [getattr(given, name) for name in _SEPARATE] if separate else given.in_proj_weight.chunk(3)
    biases = [None] * 3 if given.in_proj_bias is None else given.in_proj_bias.chunk(3)
    parts = list(map(F.linear, (given.query, given.key, given.value), weights, biases))
    if given.bias_k is not None:
        batch = (1, *shape_of(parts[1])[1:-1], -1)
        parts[1:] = [
            torch.cat([part, bias.reshape(-1).expand(batch)])
            for part, bias in zip(parts[1:], (given.bias_k, given.bias_v), strict=True)
        ]
    heads = given.num_heads, given.embed_dim_to_check // given.num_heads
    query, key, value = (part.unflatten(-1, heads).movedim(0, -2) for part in parts)
    _note_scale(call, query)
    mixed = product(call, product(call, query, key.transpose(-2, -1)), value)
    out = F.linear(mixed.movedim(-2, 0).flatten(-2), given.out_proj_weight, given.out_proj_bias)
    length = shape_of(parts[1])[0] + (1 if given.add_zero_attn else 0)
    weights_shape = (*shape_of(given.query)[1:-1], shape_of(given.query)[0], length)
    return out, (call.make(weights_shape) if given.need_weights else None)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Mean value over tokens plus the mean change of the logits; (..., L, D), (..., S, D), (..., S, E)."""
    logits = scale * query.mean(-1, keepdim=True) + key.mean((-2, -1), keepdim=True)
    return value.mean(-2, keepdim=True) + logits


def _mean_value(given: Mapping[str, Any], variance: Tensor) -> Any:
    """Average the means of the values over tokens: attention weights sum to one. Variances take the squared scale."""
    query: Any = given.get("query")
    scale: Any = given.get("scale")
    if is_data(query):
        scale = shape_of(query)[-1] ** -0.5 if scale is None else float(scale)
        variance = variance + (scale**2 - abs(scale)) * query.bound.mean(-1, keepdim=True)
    mean = mean_of(given.get("value"))
    if mean is None or mean.dim() < 2:
        return variance, mean
    return variance, mean.mean(-2, keepdim=True)


@operator(F.scaled_dot_product_attention, channels=_fused_channels, noise=_mean_value, additive=True, kind="products")
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """mean_tokens v + scale mean_d q + mean k: the rules of matmul, softmax and matmul."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    out = _attend(query, key, value, scale)
    if attn_mask is not None and attn_mask.is_floating_point():
        out = out + attn_mask.mean(-1, keepdim=True)
    return out.expand(*torch.broadcast_shapes(query.shape[:-1], out.shape[:-1]), value.shape[-1])


@operator(F.multi_head_attention_forward, channels=_multi_head_channels, context=True, kind="layer")
def multi_head_attention(flow: LayerContext, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Linear layers around the attention rule; (L, N, E) or (L, E), as in torch's function."""
    given = _named(args, kwargs)
    inputs = given.query, given.key, given.value
    if given.use_separate_proj_weight:
        parts = [
            apply_linear(flow, flow.name(name), x, getattr(given, name))
            for name, x in zip(_SEPARATE, inputs, strict=True)
        ]
        flow.sources = frozenset(map(flow.name, _SEPARATE))
    else:
        name, magnitude = flow.name("in_proj_weight"), given.in_proj_weight.abs()
        for x, part in zip(inputs, magnitude.chunk(3), strict=True):
            read_linear(flow, name, x, part)
        written = write_linear(flow, name, magnitude, given.query, ()).chunk(3)
        parts = [part.expand(*x.shape[:-1], -1) for part, x in zip(written, inputs, strict=True)]
    query, key, value = (part.unflatten(-1, (given.num_heads, -1)).movedim(0, -2) for part in parts)
    scale = query.shape[-1] ** (-1 if flow.expected else -0.5)  # squared for variances
    mixed = _attend(query, key, value, scale)
    length = given.query.shape[0]
    mixed = mixed.expand(*mixed.shape[:-2], length, mixed.shape[-1]).movedim(-2, 0).flatten(-2)
    out = apply_linear(flow, flow.name("out_proj_weight"), mixed, given.out_proj_weight)
    weights_shape = (*given.query.shape[1:-1], length, given.key.shape[0])
    return out, (torch.zeros(weights_shape, dtype=out.dtype, device=out.device) if given.need_weights else None)


multi_head_attention.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
    inspect.Parameter("flow", inspect.Parameter.POSITIONAL_OR_KEYWORD), *_MULTI_HEAD.parameters.values(),
])  # fmt: skip


@composed(*present("_nested_tensor_from_mask_left_aligned"))
def is_left_aligned(t: Any, mask: Any) -> bool:
    """False, so that `nn.TransformerEncoder` with a padding mask takes the path of ordinary tensors."""
    return False
