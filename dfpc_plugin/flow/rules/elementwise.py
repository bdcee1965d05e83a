"""Operators that act on every entry by itself.

A function f with |f(x) - f(y)| <= L |x - y| maps a bound x to L x. Where no such L exists the rule takes the slope at
one and says so. Sums add bounds; constants cannot change and add nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.flow.layer import LayerContext
from dfpc_plugin.flow.registry import Convention, forms, rule

__all__: list[str] = []


def _scaled(slope: float, names: str, convention: Convention, reason: str) -> None:
    """Register `slope * x` for several functions of one argument."""

    def scaled(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return input if slope == 1 else input * slope

    scaled.__name__ = names.split()[0]
    scaled.__doc__ = f"{'' if slope == 1 else f'{slope:.4g} '}x: {reason}."
    for name in names.split():
        rule(*forms(name), convention=convention)(scaled)


_LIPSCHITZ = "Lipschitz constant"
_scaled(1, "relu relu6 hardtanh tanh softsign logsigmoid celu", Convention.BOUND, _LIPSCHITZ)
_scaled(1, "abs neg negative positive clamp clip clamp_min clamp_max", Convention.BOUND, _LIPSCHITZ)
_scaled(1, "sin cos atan arctan asinh softshrink rrelu", Convention.BOUND, _LIPSCHITZ)
_scaled(1, "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout",
        Convention.EXACT, "the identity in evaluation")
_scaled(1 / 4, "sigmoid", Convention.BOUND, _LIPSCHITZ)
_scaled(1 / 6, "hardsigmoid", Convention.BOUND, _LIPSCHITZ)
_scaled(1.5, "hardswish", Convention.BOUND, _LIPSCHITZ)
_scaled(1.09984, "silu", Convention.BOUND, _LIPSCHITZ)
_scaled(1.1290, "gelu", Convention.BOUND, "Lipschitz constant, of the exact and the tanh form")
_scaled(1.0885, "mish", Convention.BOUND, _LIPSCHITZ)
_scaled(1.7580993408473766, "selu", Convention.BOUND, _LIPSCHITZ)
_scaled(1.1283791671, "erf", Convention.BOUND, _LIPSCHITZ)
_scaled(1, "threshold", Convention.APPROXIMATION, "without the jump at the threshold")
_scaled(1 / 2, "sqrt rsqrt", Convention.APPROXIMATION, "slope at one")
_scaled(1, "log reciprocal exp", Convention.APPROXIMATION, "slope at one (exp: at zero)")
_scaled(1, "log1p expm1", Convention.APPROXIMATION, "slope at zero")
_scaled(2, "square", Convention.APPROXIMATION, "slope at one")


@rule(*forms("softplus"), convention=Convention.BOUND)
def softplus(input: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """x: Lipschitz constant (the scale beta cancels)."""
    return input


@rule(*forms("leaky_relu"), convention=Convention.BOUND)
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """max(1, |slope|) x: Lipschitz constant."""
    return input * max(1.0, abs(negative_slope))


@rule(*forms("elu"), convention=Convention.BOUND)
def elu(
    input: Tensor, alpha: float = 1.0, inplace: bool = False, scale: float = 1.0, input_scale: float = 1.0
) -> Tensor:
    """max(1, |alpha|) x: Lipschitz constant."""
    return input * max(1.0, abs(alpha))


@rule(*forms("prelu"), convention=Convention.BOUND)
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """max(1, |slope of the channel|) x: Lipschitz constant."""
    slope = weight.abs().clamp_min(1)
    if slope.numel() > 1 and input.dim() > 1:
        slope = slope.view(-1, *(1,) * (input.dim() - 2))
    return input * slope


@rule(*forms("pow"), context=True)
def power(flow: LayerContext, input: Any, exponent: Any) -> Tensor:
    """|p| x for x^p: slope at one; |ln c| x for c^x: slope at zero; x + y for data to the power of data."""
    if flow.is_data("input"):
        return input + exponent if flow.is_data("exponent") else input * abs(exponent)
    return reversed_power(exponent, input)


@rule(torch.Tensor.__rpow__)
def reversed_power(input: Tensor, other: Any) -> Tensor:
    """|ln c| x for c^x: slope at zero."""
    base = other if isinstance(other, Tensor) else torch.tensor(other, dtype=input.dtype, device=input.device)
    return input * base.abs().log().abs()


@rule(*forms("add"), torch.Tensor.__radd__, convention=Convention.EXACT, couples=True, additive=True)
def add(input: Any, other: Any, *, alpha: float = 1, out: None = None) -> Tensor:
    """x + |alpha| y; a constant adds nothing."""
    return _sum(input, other if alpha == 1 or not isinstance(other, Tensor) else other * abs(alpha))


@rule(*forms("sub", "subtract", "rsub"), torch.Tensor.__rsub__, convention=Convention.EXACT, couples=True, additive=True)
def subtract(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """x + |alpha| y; a constant adds nothing."""
    return add(input, other, alpha=alpha)


@rule(*forms("maximum", "minimum", "fmax", "fmin"), convention=Convention.BOUND, couples=True, additive=True)
def extremum(input: Tensor, other: Tensor) -> Tensor:
    """x + y: the larger would bound the change, but credit it to one operand alone; a constant adds nothing."""
    return input + other


@rule(*forms("where"), convention=Convention.BOUND, couples=True, context=True)
def where(flow: LayerContext, condition: Tensor, input: Any, other: Any) -> Tensor:
    """The chosen operand's bound, for a constant condition."""
    if flow.is_data("condition"):
        raise DFPCError("torch.where chooses by the values of data, which a pass without data does not have.")
    zero = torch.zeros((), device=condition.device)
    return torch.where(
        condition, input if flow.is_data("input") else zero, other if flow.is_data("other") else zero
    )


@rule(*forms("lerp"), convention=Convention.BOUND, couples=True, context=True)
def interpolated(flow: LayerContext, input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """|1 - w| x + |w| y for a constant w."""
    if flow.is_data("weight"):
        return _sum(_sum(input, end), weight)
    zero = torch.zeros((), dtype=input.dtype, device=input.device)
    x = input if flow.is_data("input") else zero.expand(input.shape)
    return x * abs(1 - weight) + (end if flow.is_data("end") else zero) * abs(weight)


@rule(*forms("mul", "multiply"), torch.Tensor.__rmul__, context=True, couples=True)
def multiply(flow: LayerContext, input: Any, other: Any, *, out: None = None) -> Tensor:
    """|w| x for a constant w (exact); x + y for two data factors, each taken to stay within [-1, 1]."""
    return _product(input, other, flow.is_data("input"), flow.is_data("other"))


@rule(*forms("div", "divide", "true_divide", "truediv"), context=True, couples=True)
def divide(flow: LayerContext, input: Any, other: Any, *, rounding_mode: None = None) -> Tensor:
    """x / |w| for a constant w (exact); x + y for data over data and |w| y below a constant, at unit size."""
    return _quotient(input, other, flow.is_data("input"), flow.is_data("other"))


@rule(torch.Tensor.__rdiv__, torch.Tensor.__rtruediv__)
def divide_reversed(input: Tensor, other: Any) -> Tensor:
    """|w| x for w / x, at unit size."""
    return _quotient(other, input, False, True)


@rule(*forms("addcmul"), context=True, couples=True)
def addcmul(flow: LayerContext, input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """x + |value| times the product rule of the two factors."""
    factors = flow.is_data("tensor1"), flow.is_data("tensor2")
    start = input if flow.is_data("input") else torch.zeros_like(input)
    return start + abs(value) * _product(tensor1, tensor2, *factors) if any(factors) else start


def _product(x: Any, y: Any, x_is_data: bool, y_is_data: bool) -> Tensor:
    if x_is_data and y_is_data:
        return x + y
    x, y = (value.to(torch.uint8) if _is(value) and value.dtype == torch.bool else value for value in (x, y))
    return x * abs(y) if x_is_data else y * abs(x)


def _quotient(x: Any, y: Any, x_is_data: bool, y_is_data: bool) -> Tensor:
    if x_is_data:
        return x + y if y_is_data else x / abs(y)
    return y * abs(x)


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)


def _sum(input: Any, other: Any) -> Tensor:
    """Add two bounds; numbers are constants."""
    if not _is(other):
        return input
    return input + other if _is(input) else other
