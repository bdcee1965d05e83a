"""Products of matrices: the summed axis joins the channels of both factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.flow.registry import forms
from dfpc_plugin.flow.rules.attention import spelled_equation
from dfpc_plugin.labels.call import LabelCall
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.tensor import LabelTensor, shape_of

__all__ = ["product"]


def product(call: LabelCall, input: Tensor, other: Tensor) -> LabelTensor:
    """Matrix product with batch axes, which broadcast."""
    ranks = len(shape_of(input)), len(shape_of(other))
    batch = list(range(max(*ranks, 2) - 2))
    rows = [] if ranks[0] == 1 else ["row"]
    columns = [] if ranks[1] == 1 else ["column"]
    first = [*batch[len(batch) - max(ranks[0] - 2, 0) :], *rows, "sum"]
    second = [*batch[len(batch) - max(ranks[1] - 2, 0) :], "sum", *columns]
    output = [*(axis for axis in batch if axis in first or axis in second), *rows, *columns]
    return call.einsum([(input, first), (other, second)], output, work=True)


@label_rule(*forms("matmul", "dot", "bmm", "mm", "mv"), torch.linalg.matmul)
def matmul(call: LabelCall, input: Any, other: Any = None, **kwargs: Any) -> LabelTensor:
    """Matrix product."""
    if other is None:
        other = next(value for key, value in kwargs.items() if key in ("other", "mat2", "vec", "tensor"))
    return product(call, input, other)


@label_rule(*forms("inner"))
def inner(call: LabelCall, input: Any, other: Any) -> Any:
    """As matmul with the transpose."""
    return product(call, input, other.mT if other.dim() > 1 else other)


@label_rule(Tensor.__rmatmul__)
def matmul_reversed(call: LabelCall, input: Any, other: Any) -> LabelTensor:
    """The same with its factors exchanged."""
    return product(call, other, input)


@label_rule(*forms("addmm", "baddbmm", "addmv"))
def added_product(call: LabelCall, input: Any, first: Any, second: Any, **kwargs: Any) -> LabelTensor:
    """A product added to a tensor."""
    return call.elementwise(product(call, first, second), input)


@label_rule(*forms("einsum"))
def einsum(call: LabelCall, equation: str, *operands: Any) -> LabelTensor:
    """Sums over the letters that the output lacks."""
    factors = operands[0] if isinstance(operands[0], list | tuple) else operands
    terms, output = spelled_equation(equation, [len(shape_of(factor)) for factor in factors])
    return call.einsum(list(zip(factors, terms, strict=True)), list(output), work=True)
