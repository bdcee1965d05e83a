"""Fused attention functions, by the rules of the products that they consist of."""

from __future__ import annotations

import operator as operators
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.layer_context import LayerContext
from dfpc_plugin.analyses.moments import mean_of
from dfpc_plugin.ops.linear import apply_linear, read_linear, write_linear
from dfpc_plugin.ops.products import product
from dfpc_plugin.ops.record import composed, operator
from dfpc_plugin.tracing.axes import varying
from dfpc_plugin.tracing.operator import present
from dfpc_plugin.tracing.proxy import is_data, shape_of
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


def _multi_head_channels(
    call: ChannelCall,
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: Any,
    num_heads: Any,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Projections around attention. torch requires the input, all heads together and the output to have one width."""
    for slot in getattr(query, "slots", ()):
        if slot.dim() - 1 in varying(slot):
            call.size(slot, slot.dim() - 1, embed_dim_to_check)
    if use_separate_proj_weight:
        weights = [q_proj_weight, k_proj_weight, v_proj_weight]
    else:
        weights = list(in_proj_weight.chunk(3))
    biases = list(in_proj_bias.chunk(3)) if in_proj_bias is not None else [None] * 3
    parts = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    if bias_k is not None:
        batch = (1, *shape_of(parts[1])[1:-1], -1)
        parts[1] = torch.cat([parts[1], bias_k.reshape(-1).expand(batch)])
        parts[2] = torch.cat([parts[2], bias_v.reshape(-1).expand(batch)])
    head = embed_dim_to_check // num_heads
    split = [part.unflatten(-1, (num_heads, head)).movedim(0, -2) for part in parts]
    _note_scale(call, split[0])
    mixed = product(call, product(call, split[0], split[1].transpose(-2, -1)), split[2])
    joined = mixed.movedim(-2, 0).flatten(-2)
    out = F.linear(joined, out_proj_weight, out_proj_bias)
    length = shape_of(parts[1])[0] + (1 if add_zero_attn else 0)
    weights_shape = (*shape_of(query)[1:-1], shape_of(query)[0], length)
    return out, (call.make(weights_shape) if need_weights else None)


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
def multi_head_attention(
    flow: LayerContext,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Linear layers around the attention rule; (L, N, E) or (L, E), as in torch's function."""
    if use_separate_proj_weight:
        names = ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
        weights = [q_proj_weight, k_proj_weight, v_proj_weight]
        parts = [
            apply_linear(flow, flow.name(name), x, weight)
            for name, x, weight in zip(names, (query, key, value), weights, strict=True)
            if weight is not None
        ]
        flow.sources = frozenset(flow.name(name) for name in names)
    else:
        assert in_proj_weight is not None
        name, magnitude = flow.name("in_proj_weight"), in_proj_weight.abs()
        for x, part in zip((query, key, value), magnitude.chunk(3), strict=True):
            read_linear(flow, name, x, part)
        written = write_linear(flow, name, magnitude, query, ()).chunk(3)
        parts = [part.expand(*x.shape[:-1], -1) for part, x in zip(written, (query, key, value), strict=True)]
    heads = [part.unflatten(-1, (num_heads, -1)).movedim(0, -2) for part in parts]
    scale = heads[0].shape[-1] ** -0.5  # squared for variances
    mixed = _attend(heads[0], heads[1], heads[2], scale=scale**2 if flow.expected else scale)
    length = query.shape[0]
    mixed = mixed.expand(*mixed.shape[:-2], length, mixed.shape[-1]).movedim(-2, 0).flatten(-2)
    out = apply_linear(flow, flow.name("out_proj_weight"), mixed, out_proj_weight)
    weights_shape = (*query.shape[1:-1], length, key.shape[0])
    return out, (torch.zeros(weights_shape, dtype=out.dtype, device=out.device) if need_weights else None)


@composed(*present("_nested_tensor_from_mask_left_aligned"))
def is_left_aligned(t: Any, mask: Any) -> bool:
    """False, so that `nn.TransformerEncoder` with a padding mask takes the path of ordinary tensors."""
    return False
