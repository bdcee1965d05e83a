"""Attention written as one function: taken apart into the products it consists of."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F

from dfpc_plugin.labels.axes import varying
from dfpc_plugin.labels.call import LabelCall
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.rules.products import product
from dfpc_plugin.labels.sizes import Operation, expression_of
from dfpc_plugin.labels.tensor import shape_of

__all__: list[str] = []


@label_rule(F.scaled_dot_product_attention)
def scaled_dot_product_attention(
    call: LabelCall, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Any:
    """Products of queries with keys and of their softmax with values."""
    if enable_gqa:
        repeats = shape_of(query)[-3] // shape_of(key)[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    note_scale(call, query, scale)
    logits = product(call, query, key.transpose(-2, -1))
    if attn_mask is not None:
        logits = call.elementwise(logits, attn_mask)
    return product(call, logits, value)


def note_scale(call: LabelCall, query: Any, scale: Any = None) -> None:
    """Note what the logits are multiplied by: one over the root of the width of a head, unless a number is given."""
    width = query.shape[-1]
    default = Operation(operator.pow, (expression_of(width), -0.5))
    call.scaled(query, default if scale is None else getattr(scale, "expression", scale))


@label_rule(F.multi_head_attention_forward)
def multi_head_attention(
    call: LabelCall,
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
    """Projections around attention; torch asks for one width of the input, the heads together and the output."""
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
    note_scale(call, split[0])
    mixed = product(call, product(call, split[0], split[1].transpose(-2, -1)), split[2])
    joined = mixed.movedim(-2, 0).flatten(-2)
    out = F.linear(joined, out_proj_weight, out_proj_bias)
    length = shape_of(parts[1])[0] + (1 if add_zero_attn else 0)
    weights_shape = (*shape_of(query)[1:-1], shape_of(query)[0], length)
    return out, (call.make(weights_shape) if need_weights else None)
