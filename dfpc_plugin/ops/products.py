"""Products of two data tensors.

Their bound depends on the values, so a convention is used: elements have size one, and where elements are summed over
an axis of length K, the other factor's are taken as 1 / K, like a row of attention weights. So

    (x y)[i, j] = sum_k x[i, k] y[k, j]   becomes   mean_k x[i, k] + mean_k y[k, j]

The map stays linear, a value's bound passes attention as an average over the tokens, and fused and written-out
attention get the same scores.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.moments import mean_of
from dfpc_plugin.ops.linear import apply_linear
from dfpc_plugin.ops.record import composed, operator
from dfpc_plugin.tracing.operator import forms, present
from dfpc_plugin.tracing.proxy import Proxy, is_data, shape_of, value_of


def product(call: ChannelCall, input: Any, other: Any) -> Proxy:
    """Matrix product; batch axes broadcast."""
    ranks = len(shape_of(input)), len(shape_of(other))
    batch = list(range(max(*ranks, 2) - 2))
    rows = [] if ranks[0] == 1 else ["row"]
    columns = [] if ranks[1] == 1 else ["column"]
    first = [*batch[len(batch) - max(ranks[0] - 2, 0) :], *rows, "sum"]
    second = [*batch[len(batch) - max(ranks[1] - 2, 0) :], "sum", *columns]
    output = [*(axis for axis in batch if axis in first or axis in second), *rows, *columns]
    return call.einsum([(input, first), (other, second)], output, work=True)


def _einsum_channels(call: ChannelCall, equation: str, *operands: Any) -> Proxy:
    factors = operands[0] if isinstance(operands[0], list | tuple) else operands
    terms, output = spelled_equation(equation, [len(shape_of(factor)) for factor in factors])
    return call.einsum(list(zip(factors, terms, strict=True)), list(output), work=True)


def _noise(given: Mapping[str, Any], variance: Tensor) -> Any:
    """The product of the means, which is exact for independent factors."""
    x, y = _summed_mean(given.get("input"), -1), _summed_mean(given.get("other"), -2)
    return variance, None if x is None or y is None else torch.matmul(x, y)


def _summed_mean(factor: Any, axis: int) -> Any:
    """Means of a factor, expanded along the axis that is summed, or None if they are unknown."""
    if not is_data(factor):
        return value_of(factor).detach()
    mean = mean_of(factor)
    if mean is None:
        return None
    rank = min(2, factor.dim())
    mean = mean.reshape((1,) * max(0, rank - mean.dim()) + mean.shape)
    axis = max(axis, -rank)
    return mean.expand([*mean.shape[:axis], shape_of(factor)[axis], *mean.shape[axis:][1:]])


def _mean_product(x: Tensor, y: Tensor) -> Tensor:
    """mean_k x[..., i, k] + mean_k y[..., k, j]."""
    x_rows = x.mean(-1, keepdim=True) if x.dim() > 1 else x.mean().reshape(1, 1)
    y_columns = y.mean(-2, keepdim=True) if y.dim() > 1 else y.mean().reshape(1, 1)
    out = x_rows + y_columns
    if x.dim() == 1:
        out = out.squeeze(-2)
    return out.squeeze(-1) if y.dim() == 1 else out


_products = partial(operator, context=True, kind="products")


@_products(*forms("matmul", "dot", "vdot"), torch.linalg.matmul, channels=product, noise=_noise)
def matmul(flow: LayerContext, input: Tensor, other: Tensor) -> Tensor:
    """mean_k x + mean_k y for two data factors; |W| x for a constant W; a linear layer if W is a 2-D parameter."""
    if flow.is_data("input") and flow.is_data("other"):
        return _mean_product(input, other)
    if flow.is_data("input") and flow.is_parameter("other") and other.dim() == 2:
        return apply_linear(flow, flow.name("other"), input, other.t())
    return torch.matmul(input.abs(), other.abs())


@composed(*forms("mm", "bmm", "mv"))
def product_of_matrices(
    input: Any, other: Any = None, *, mat2: Any = None, vec: Any = None, out_dtype: torch.dtype | None = None
) -> Any:
    """The matrix product."""
    return torch.matmul(input, next(factor for factor in (other, mat2, vec) if factor is not None))


@composed(*forms("inner"))
def inner(input: Any, other: Any) -> Any:
    """The products of all rows of x with all rows of y."""
    rows = torch.matmul(input, other.reshape(-1, other.shape[-1]).mT)
    return rows.reshape((*input.shape[:-1], *other.shape[:-1]))


@composed(torch.Tensor.__rmatmul__)
def matmul_reversed(input: Any, other: Any) -> Any:
    """The matrix product with exchanged factors."""
    return torch.matmul(other, input)


_FACTORS = ("mat1", "mat", "batch1", "mat2", "vec", "batch2")
"""Keywords of the factors of a product, first and second ones."""


@composed(*forms("addmm", "addmv", "baddbmm"))
def product_and_sum(input: Any, *factors: Any, beta: float = 1, alpha: float = 1, **named: Any) -> Any:
    """beta x + alpha times the matrix product of the others."""
    first, second = (*factors, *(named[name] for name in _FACTORS if name in named))
    product = torch.matmul(first, second)
    return (product if alpha == 1 else product * alpha) + (input if beta == 1 else input * beta)


@_products(*forms("einsum"), channels=_einsum_channels)
def einsum(flow: LayerContext, equation: str, *operands: Any) -> Tensor:
    """The sum, over data operands, of means over the summed indices; |W| x when only one operand is data."""
    factors: Sequence[Tensor] = operands[0] if isinstance(operands[0], list | tuple) else operands
    originals = flow.arguments[1] if isinstance(operands[0], list | tuple) else flow.arguments[1:]
    data = [is_data(original) for original in originals]
    if sum(data) == 1:
        return torch.einsum(equation, *(x if varies else x.abs() for x, varies in zip(factors, data, strict=True)))
    terms, output = spelled_equation(equation, [factor.dim() for factor in factors])
    sizes = {c: n for term, x in zip(terms, factors, strict=True) for c, n in zip(term, x.shape, strict=True)}
    shape = [sizes[letter] for letter in output]
    total = factors[0].new_zeros(())
    for letters, factor, varies in zip(terms, factors, data, strict=True):
        if varies:
            total = total + _aligned_mean(factor, letters, output)
    return total.expand(shape)


def spelled_equation(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Return the letters of every operand and of the output, with `...` and a missing output written out."""
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
    """Average over the letters missing in `output`, and permute the others to its order."""
    summed = [axis for axis, letter in enumerate(term) if letter not in output]
    kept = [letter for letter in term if letter in output]
    mean = factor.mean(summed) if summed else factor
    mean = mean.permute([kept.index(letter) for letter in output if letter in kept])
    return mean[tuple(slice(None) if letter in kept else None for letter in output)]


def _distance_channels(call: ChannelCall, x1: Any, x2: Any, *args: Any, **kwargs: Any) -> Any:
    """Read both operands along their last axis, whose channels are united."""
    return product(call, x1, x2.transpose(-2, -1))


@_products(*present("cdist"), channels=_distance_channels)
def distance(flow: LayerContext, x1: Tensor, x2: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """sum_k x + sum_k y: a distance changes by at most the norms of both changes."""
    zero = torch.zeros((), dtype=x1.dtype, device=x1.device)
    first = x1.sum(-1).unsqueeze(-1) if flow.is_data("x1") else zero
    second = x2.sum(-1).unsqueeze(-2) if flow.is_data("x2") else zero
    return (first + second).expand(flow.on_shapes().shape)
