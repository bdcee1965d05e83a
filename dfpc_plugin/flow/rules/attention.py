"""Products of data with data, and attention.

A product of two data tensors has no bound without their values. Convention: entries have unit size, and where entries
are summed over an axis of length K, the partner's are taken as 1 / K, as a row of attention weights is. So

    (x y)[i, j] = sum_k x[i, k] y[k, j]   becomes   mean_k x[i, k] + mean_k y[k, j]

which keeps the map linear, moves a value's bound through attention as the average over the tokens it is mixed from, and
gives fused and written-out attention the same scores.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.flow.layer import LayerContext
from dfpc_plugin.flow.registry import forms, rule
from dfpc_plugin.flow.rules.linear import apply_linear, read_linear, write_linear
from dfpc_plugin.flow.tensor import holds_data

__all__ = ["spelled_equation"]


def _mean_product(x: Tensor, y: Tensor) -> Tensor:
    """mean_k x[..., i, k] + mean_k y[..., k, j]."""
    x_rows = x.mean(-1, keepdim=True) if x.dim() > 1 else x.mean().reshape(1, 1)
    y_columns = y.mean(-2, keepdim=True) if y.dim() > 1 else y.mean().reshape(1, 1)
    out = x_rows + y_columns
    if y.dim() == 1:
        out = out.squeeze(-1)
    return out.squeeze(-2) if x.dim() == 1 else out


def _matmul(flow: LayerContext, first: str, second: str, x: Tensor, y: Tensor) -> Tensor:
    """Matrix product, where at least one factor is data."""
    if flow.is_data(first) and flow.is_data(second):
        return _mean_product(x, y)
    if flow.is_data(first):
        if flow.is_parameter(second) and y.dim() == 2:
            return apply_linear(flow, flow.name(second), x, y.t())
        return torch.matmul(x, y.abs())
    return torch.matmul(x.abs(), y)


@rule(*forms("matmul", "dot"), torch.linalg.matmul, context=True)
def matmul(flow: LayerContext, input: Tensor, other: Tensor) -> Tensor:
    """mean_k x + mean_k y for two data factors; |W| x for a constant W; a linear layer if W is a 2-D parameter."""
    return _matmul(flow, "input", "other", input, other)


@rule(*forms("inner"), context=True)
def inner(flow: LayerContext, input: Tensor, other: Tensor) -> Tensor:
    """As matmul with the transpose."""
    return _matmul(flow, "input", "other", input, other.mT if other.dim() > 1 else other)


@rule(*forms("bmm", "mm"), context=True)
def matrix_times_matrix(flow: LayerContext, input: Tensor, mat2: Tensor, *, out_dtype: Any = None) -> Tensor:
    """As matmul."""
    return _matmul(flow, "input", "mat2", input, mat2)


@rule(*forms("mv"), context=True)
def matrix_times_vector(flow: LayerContext, input: Tensor, vec: Tensor) -> Tensor:
    """As matmul."""
    return _matmul(flow, "input", "vec", input, vec)


@rule(torch.Tensor.__rmatmul__, context=True)
def matmul_reversed(flow: LayerContext, input: Tensor, other: Tensor) -> Tensor:
    """The same with its factors exchanged."""
    return _matmul(flow, "other", "input", other, input)


def _added(flow: LayerContext, input: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    """|beta| x + |alpha| product, where x may be a constant bias."""
    product = product * abs(alpha)
    return product + input * abs(beta) if flow.is_data("input") else product


@rule(*forms("addmm"), context=True)
def addmm(
    flow: LayerContext, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """|beta| x + |alpha| times the rule of matmul."""
    return _added(flow, input, _matmul(flow, "mat1", "mat2", mat1, mat2), beta, alpha)


@rule(*forms("baddbmm"), context=True)
def baddbmm(
    flow: LayerContext, input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """|beta| x + |alpha| times the rule of matmul."""
    return _added(flow, input, _matmul(flow, "batch1", "batch2", batch1, batch2), beta, alpha)


@rule(*forms("einsum"), context=True)
def einsum(flow: LayerContext, equation: str, *operands: Any) -> Tensor:
    """Means over shared summed indices, added up over data operands; |W| x when one operand is data."""
    factors: Sequence[Tensor] = operands[0] if isinstance(operands[0], list | tuple) else operands
    originals = flow.arguments[1] if isinstance(operands[0], list | tuple) else flow.arguments[1:]
    data = [holds_data(original) for original in originals]
    if sum(data) == 1:
        return torch.einsum(
            equation, *(factor if is_data else factor.abs() for factor, is_data in zip(factors, data, strict=True))
        )
    terms, output = spelled_equation(equation, [factor.dim() for factor in factors])
    sizes = {letter: size for term, x in zip(terms, factors, strict=True) for letter, size in zip(term, x.shape, strict=True)}
    shape = [sizes[letter] for letter in output]
    total = factors[0].new_zeros(())
    for term, factor, is_data in zip(terms, factors, data, strict=True):
        if is_data:
            total = total + _aligned_mean(factor, term, output)
    return total.expand(shape)


def spelled_equation(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Return the operands' letters and the output's, with letters for `...` and for an output left out."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms, spare = inputs.split(","), "".join(c for c in string.ascii_uppercase if c not in equation)
    extra = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    hidden = [spare[len(spare) - n :] for n in extra]  # axes under an ellipsis line up from the right
    full = [term.replace("...", letters) for term, letters in zip(terms, hidden, strict=True)]
    every = max((letters for term, letters in zip(terms, hidden, strict=True) if "..." in term), key=len, default="")
    if arrow:
        return full, output.replace("...", every)
    joined = "".join(full)
    return full, every + "".join(sorted(c for c in set(joined) if joined.count(c) == 1 and c not in every))


def _aligned_mean(factor: Tensor, term: str, output: str) -> Tensor:
    """Average over the letters missing in `output` and line up the others with it."""
    summed = [axis for axis, letter in enumerate(term) if letter not in output]
    kept = [letter for letter in term if letter in output]
    mean = factor.mean(summed) if summed else factor
    mean = mean.permute([kept.index(letter) for letter in output if letter in kept])
    return mean[tuple(slice(None) if letter in kept else None for letter in output)]


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """mean over tokens of the value, plus the mean change of the logits: (..., L, D), (..., S, D), (..., S, E)."""
    logits = scale * query.mean(-1, keepdim=True) + key.mean((-2, -1), keepdim=True)
    return value.mean(-2, keepdim=True) + logits


@rule(F.scaled_dot_product_attention, additive=True)
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
    """mean_tokens v + scale mean_d q + mean k: matmul, softmax, matmul by their rules."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    out = _attend(query, key, value, scale)
    if attn_mask is not None and attn_mask.is_floating_point():
        out = out + attn_mask.mean(-1, keepdim=True)
    return out.expand(*torch.broadcast_shapes(query.shape[:-1], out.shape[:-1]), value.shape[-1])


@rule(F.multi_head_attention_forward, context=True)
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
    """Linear layers around the attention rule; (L, N, E) or (L, E), as torch's own function."""
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
    mixed = _attend(heads[0], heads[1], heads[2], scale=heads[0].shape[-1] ** -0.5)
    length = query.shape[0]
    mixed = mixed.expand(*mixed.shape[:-2], length, mixed.shape[-1]).movedim(-2, 0).flatten(-2)
    out = apply_linear(flow, flow.name("out_proj_weight"), mixed, out_proj_weight)
    weights_shape = (*query.shape[1:-1], length, key.shape[0])
    return out, (torch.zeros(weights_shape, dtype=out.dtype, device=out.device) if need_weights else None)
