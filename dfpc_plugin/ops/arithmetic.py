"""Element-wise sums, products and selections.

Bounds of summands add up; a constant adds nothing. The bound of a product of two data tensors depends on their values,
so each factor is assumed to lie within [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.moments import mean_of, once_more, term
from dfpc_plugin.errors import ValueDependentError
from dfpc_plugin.ops.record import APPROXIMATION, BOUND, EXACT, combines, combines_entries, composed
from dfpc_plugin.tracing.axes import squeezed
from dfpc_plugin.tracing.operator import Means, forms, present
from dfpc_plugin.tracing.proxy import Proxy, is_data, shape_of, value_of
from dfpc_plugin.tracing.sizes import TracedFloat, TracedInt

_POWERS = dict.fromkeys(("mul", "imul", "rmul", "multiply"), 1)
_POWERS |= dict.fromkeys(("div", "truediv", "itruediv", "divide"), -1)
"""Power of the second operand in each product operator."""


def sum_channels(call: ChannelCall, *operands: Any, **kwargs: Any) -> Any:
    """Unite the operands' channels. Scaling the weight rows of all summands scales the sum."""
    result = combines_entries(call, *operands, **kwargs)
    if any(is_data(operand) for operand in operands) and all(_rows_of(operand) for operand in operands):
        result.rows = _distinct([row for operand in operands for row in _rows_of(operand)], shape_of(result))
    return result


def _rows_of(operand: Any) -> tuple[Tensor, ...]:
    return operand.rows if isinstance(operand, Proxy) else ()


def _distinct(rows: Sequence[Tensor], shape: torch.Size) -> tuple[Tensor, ...]:
    kept: list[Tensor] = []
    for row in rows:
        laid_out = row.expand(shape)
        if not any(torch.equal(squeezed(laid_out), squeezed(other)) for other in kept):
            kept.append(laid_out)
    return tuple(kept)


def product_channels(call: ChannelCall, *operands: Any, **kwargs: Any) -> Any:
    """Unite the operands' channels, and note a product with, or a quotient by, a number computed from widths."""
    power = _POWERS.get(call.name)
    data = [operand for operand in operands if is_data(operand)]
    if power is not None and len(data) == 1 and (power == 1 or data[0] is operands[0]):
        numbers = [_expression(call, operand) for operand in operands if operand is not data[0]]
        for expression in numbers:
            if expression is not None:
                call.scaled(data[0], expression, power)
    result = combines_entries(call, *operands, **kwargs)
    if power is not None and len(data) == 1 and data[0] is operands[0]:
        result.rows = tuple([row.expand(shape_of(result)) for row in data[0].rows])
        result.factors, result.multiplied = data[0].factors, data[0].multiplied
    return result


def _expression(call: ChannelCall, number: Any) -> Any:
    """Return how a number was computed from widths (traced, or recognised by its value), or None."""
    if isinstance(number, TracedFloat | TracedInt):
        return number.expression
    if isinstance(number, Tensor):
        value = value_of(number)
        if value.numel() != 1 or value.is_meta or (isinstance(number, Proxy) and number.origins):
            return None
        number = value.item()
    return call.notes.casts.origin_of(number, call.notes.names.caller) if isinstance(number, int | float) else None


def _sum(input: Any, other: Any) -> Tensor:
    """Add two bounds; a number is a constant and adds nothing."""
    if not isinstance(other, Tensor):
        return input
    return input + other if isinstance(input, Tensor) else other


def _sum_noise(given: Mapping[str, Any], variance: Tensor, sign: int = 1) -> Any:
    """Mean x + sign alpha y; variance x + alpha^2 y."""
    alpha: Any = given.get("alpha", 1)
    other: Any = given.get("other")
    if alpha != 1 and is_data(other):
        variance = variance + (alpha**2 - abs(alpha)) * other.bound
    first, second = term(given.get("input")), term(other)
    if first is None or second is None:
        return variance, None
    return variance, first + second * (sign * alpha) if sign * alpha != 1 else first + second


@combines(*forms("add"), Tensor.__radd__, convention=EXACT, channels=sum_channels, noise=_sum_noise, additive=True)
def add(input: Any, other: Any, *, alpha: float = 1, out: None = None) -> Tensor:
    """x + |alpha| y; a constant adds nothing."""
    return _sum(input, other if alpha == 1 or not isinstance(other, Tensor) else other * abs(alpha))


@combines(
    *forms("sub", "subtract"),
    convention=EXACT,
    channels=sum_channels,
    noise=partial(_sum_noise, sign=-1),
    additive=True,
)
def subtract(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """x + |alpha| y; a constant adds nothing."""
    return add(input, other, alpha=alpha)


@composed(*forms("rsub"), Tensor.__rsub__)
def subtract_from(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """y - alpha x."""
    return (input if alpha == 1 else input * alpha).neg() + other


def _summed(reason: str) -> Callable[..., Tensor]:
    """Return the rule that adds the operands' bounds."""

    def summed(*operands: Any, **kwargs: Any) -> Tensor:
        return _sum(*operands, *kwargs.values())

    summed.__doc__ = f"x + y: {reason}; a constant adds nothing."
    return summed


for _names, _convention, _means, _reason in (
    ("maximum minimum fmax fmin", BOUND, Means.POINTWISE, "max(x, y) would bound the change, too, but credit it to one operand alone"),
    ("logaddexp logaddexp2 hypot", BOUND, Means.POINTWISE, "the Lipschitz constants are one"),
    ("atan2 arctan2 xlogy floor_divide remainder fmod ldexp copysign nextafter __floordiv__ __rfloordiv__ __ifloordiv__ __mod__ "
     "__rmod__ __imod__", APPROXIMATION, Means.AS_BOUNDS, "slope one for either operand"),
    ("heaviside", APPROXIMATION, Means.AS_BOUNDS, "straight-through estimate"),
):  # fmt: skip
    combines(*present(*_names.split()), convention=_convention, means=_means, additive=True)(_summed(_reason))


@composed(*present("glu"))
def gated_half(input: Any, dim: int = -1) -> Any:
    """The first half times the sigmoid of the second."""
    first, second = input.chunk(2, dim)
    return first * second.sigmoid()


def _where_channels(call: ChannelCall, condition: Any, input: Any = None, other: Any = None) -> Any:
    """Unite the channels of both choices. The form with one argument depends on values and raises."""
    if input is None:
        raise ValueDependentError("torch.where with one argument", call.caller)
    return combines_entries(call, condition, input, other)


@combines(*forms("where"), convention=BOUND, channels=_where_channels, context=True)
def where(flow: LayerContext, condition: Tensor, input: Any = None, other: Any = None) -> Tensor:
    """The chosen operand's bound for a constant condition; x + y for a condition that depends on data."""
    if input is None:
        raise ValueDependentError("torch.where with one argument", flow.caller)
    zero = torch.zeros((), device=condition.device)
    x, y = (value if flow.is_data(name) else zero for name, value in (("input", input), ("other", other)))
    if flow.is_data("condition"):
        return (x + y).expand(torch.broadcast_shapes(condition.shape, x.shape, y.shape))
    return torch.where(condition, x, y)


@composed(*forms("lerp"))
def interpolated(input: Any, end: Any, weight: Any) -> Any:
    """(1 - w) x + w y."""
    return input * (1 - weight) + end * weight


def _product_noise(given: Mapping[str, Any], variance: Tensor) -> Any:
    """Mean k m and variance k^2 v for a constant k; for two data factors the product of their means."""
    data, constant = given.get("input"), given.get("other")
    if is_data(constant):
        data, constant = constant, data
    if is_data(constant):
        first, second = mean_of(data), mean_of(constant)
        return variance, None if first is None or second is None else first * second
    variance = variance * once_more(constant)
    mean = mean_of(data)
    return variance, None if mean is None else mean * term(constant)


@combines(*forms("mul", "multiply"), Tensor.__rmul__, channels=product_channels, noise=_product_noise, context=True)
def multiply(flow: LayerContext, input: Any, other: Any, *, out: None = None) -> Tensor:
    """|w| x for a constant w (exact); x + y for two data factors, each assumed to lie within [-1, 1]."""
    if flow.is_data("input") and flow.is_data("other"):
        return input + other
    data, constant = (input, other) if flow.is_data("input") else (other, input)
    is_mask = isinstance(constant, Tensor) and constant.dtype == torch.bool
    return data * (constant.to(torch.uint8) if is_mask else abs(constant))


def _quotient_noise(given: Mapping[str, Any], variance: Tensor) -> Any:
    """Mean m / k and variance v / k^2 for a constant k."""
    data, constant = given.get("input"), given.get("other")
    if is_data(constant) or not is_data(data):
        return variance, None
    variance = variance / once_more(constant)
    mean = mean_of(data)
    return variance, None if mean is None else mean / term(constant)


@combines(
    *forms("div", "divide", "true_divide", "truediv"), channels=product_channels, noise=_quotient_noise,
    context=True,
)  # fmt: skip
def divide(flow: LayerContext, input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """x / |w| for a constant w (exact); x + y for data over data; |w| y for w / y, with y assumed of size one."""
    return _quotient(input, other, flow.is_data("input"), flow.is_data("other"))


@combines(*present("__rdiv__", "__rtruediv__"))
def divide_reversed(input: Tensor, other: Any) -> Tensor:
    """|w| x for w / x, with x assumed of size one."""
    return _quotient(other, input, False, True)


@composed(*forms("addcmul"))
def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """x + value times the product of the other two."""
    return input + (tensor1 if value == 1 else tensor1 * value) * tensor2


@composed(*forms("addcdiv"))
def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """x + value times the quotient of the other two."""
    return input + (tensor1 if value == 1 else tensor1 * value) / tensor2


def _whole_power(input: Any, exponent: Any) -> Tensor:
    """x^p for p = 0, 1, 2, ...; NaN for other powers, which have poles or are undefined somewhere."""
    if isinstance(exponent, int | float) and exponent >= 0 and exponent == int(exponent):
        return input**exponent
    return torch.full_like(input if isinstance(input, Tensor) else exponent, torch.nan)


@combines(
    *present("pow", "float_power"), channels=product_channels, means=Means.POINTWISE, compute=_whole_power,
    context=True,
)  # fmt: skip
def power(flow: LayerContext, input: Any, exponent: Any) -> Tensor:
    """|p| x for x^p (slope at one); |ln c| x for c^x (slope at zero); x + y for data to the power of data."""
    if flow.is_data("input"):
        return input + exponent if flow.is_data("exponent") else input * abs(exponent)
    base = input if isinstance(input, Tensor) else torch.tensor(input, dtype=exponent.dtype, device=exponent.device)
    return exponent * base.abs().log().abs()


@composed(Tensor.__rpow__)
def reversed_power(input: Any, other: Any) -> Any:
    """c^x."""
    return torch.pow(other, input)


@combines(*forms("masked_fill"), convention=EXACT, context=True, couples=False)
def masked_fill(flow: LayerContext, input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Zero where a constant mask fills in a constant; x for a mask that depends on data."""
    if flow.is_data("value"):
        raise ValueError("it gets data in an argument that its rule takes for a constant")
    if flow.is_data("mask"):
        return input.expand(torch.broadcast_shapes(input.shape, mask.shape))
    return input.masked_fill(mask, 0)


def _quotient(x: Any, y: Any, x_is_data: bool, y_is_data: bool) -> Tensor:
    if x_is_data:
        return x + y if y_is_data else x / abs(y)
    return y * abs(x)
