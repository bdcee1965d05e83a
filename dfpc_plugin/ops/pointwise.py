"""Element-wise functions of one tensor.

A function f with |f(x) - f(y)| <= L |x - y| maps a bound x to L x. Where no such L exists, the rule takes the slope at
one and says so. Variances and means come from integrals of f, so a function needs no more than its slope here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.moments import mean_of
from dfpc_plugin.ops.record import (
    APPROXIMATION,
    BOUND,
    EXACT,
    combines,
    combines_entries,
    keeps_entries,
    operator,
    pointwise,
)
from dfpc_plugin.tracing.operator import Convention, Means, forms, present
from dfpc_plugin.tracing.proxy import Proxy

_LIPSCHITZ = "Lipschitz constant"
_SLOPES: tuple[tuple[float, str, Convention, str], ...] = (
    (1, "relu relu6 hardtanh tanh softsign logsigmoid celu", BOUND, _LIPSCHITZ),
    (1, "abs absolute clamp clip clamp_min clamp_max", BOUND, _LIPSCHITZ),
    (1, "sin cos atan arctan asinh arcsinh softshrink hardshrink tanhshrink rrelu sinc", BOUND, _LIPSCHITZ),
    (1, "nan_to_num deg2rad frac", BOUND, _LIPSCHITZ + ", between jumps"),
    (1, "softplus", BOUND, _LIPSCHITZ + " (the scale beta cancels)"),
    (1 / 4, "sigmoid expit", BOUND, _LIPSCHITZ),
    (1 / 6, "hardsigmoid", BOUND, _LIPSCHITZ),
    (1.5, "hardswish", BOUND, _LIPSCHITZ),
    (1.09984, "silu", BOUND, _LIPSCHITZ),
    (1.1290, "gelu", BOUND, f"{_LIPSCHITZ}, of the exact and the tanh form"),
    (1.0885, "mish", BOUND, _LIPSCHITZ),
    (1.7580993408473766, "selu", BOUND, _LIPSCHITZ),
    (1.1283791671, "erf erfc", BOUND, _LIPSCHITZ),
    (0.3989422805, "ndtr", BOUND, _LIPSCHITZ),
    (1, "threshold", APPROXIMATION, "without the jump at the threshold"),
    (1, "round floor ceil trunc fix", APPROXIMATION, "as without rounding"),
    (1, "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine", APPROXIMATION, "as without rounding"),
    (1, "sign sgn", APPROXIMATION, "as a straight-through estimate"),
    (2, "square", APPROXIMATION, "slope at one"),
)
_SLOPES_AT_ONE: tuple[tuple[float, str], ...] = (
    (1 / 2, "sqrt rsqrt"), (1, "log reciprocal acosh arccosh atanh arctanh tan asin arcsin acos arccos lgamma gammaln digamma psi"),
    (1 / 0.6931471805599453, "log2"), (1 / 2.302585092994046, "log10"), (2 * 0.6931471805599453, "exp2"),
    (4, "logit"), (1, "exp expm1 sinh cosh log1p i0 erfinv log_ndtr"),
)  # fmt: skip
_IDENTITIES = "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout"


def _scaled(slope: float, reason: str) -> Callable[..., Tensor]:
    """Return the rule of a function whose bound is `slope` times that of its input."""

    def scaled(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return input if slope == 1 else input * slope

    scaled.__doc__ = f"{'' if slope == 1 else f'{slope:.4g} '}x: {reason}."
    return scaled


def _nowhere(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """NaN, so that a function with a pole, or undefined somewhere, is not integrated and its slope is used."""
    return torch.full_like(input, torch.nan)


for _slope, _names, _convention, _reason in _SLOPES:
    pointwise(*present(*_names.split()), convention=_convention)(_scaled(_slope, _reason))
for _slope, _names in _SLOPES_AT_ONE:
    _reason = "slope at one (exp and its like: at zero; logit: at one half)"
    pointwise(*present(*_names.split()), compute=_nowhere)(_scaled(_slope, _reason))


def _scales_on(call: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Every element keeps its channel, and scales with the weight rows that scale the input."""
    result = call.same(input)
    result.rows = input.rows
    return result


def _same_mean(given: Mapping[str, Any], variance: Tensor) -> Any:
    return variance, mean_of(next(iter(given.values())))


@pointwise(*forms(*_IDENTITIES.split()), convention=EXACT, channels=_scales_on, means=Means.OWN, noise=_same_mean)
def identity(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x: the identity in evaluation."""
    return input


@pointwise(*forms("neg", "negative"), convention=EXACT, channels=_scales_on, means=Means.LINEAR)
def negative(input: Tensor) -> Tensor:
    """x: the sign does not matter."""
    return input


@pointwise(*forms("leaky_relu"), convention=BOUND)
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """max(1, |slope|) x: Lipschitz constant."""
    return input * max(1.0, abs(negative_slope))


@pointwise(*forms("elu"), convention=BOUND)
def elu(
    input: Tensor, alpha: float = 1.0, inplace: bool = False, scale: float = 1.0, input_scale: float = 1.0
) -> Tensor:
    """max(1, |alpha|) x: Lipschitz constant."""
    return input * max(1.0, abs(alpha))


def _on_axis_one(weight: Tensor, input: Tensor) -> Tensor:
    """Align one slope per channel with axis one."""
    return weight.reshape(-1, *(1,) * (input.dim() - 2)) if weight.numel() > 1 and input.dim() > 1 else weight


def _prelu_channels(call: ChannelCall, input: Any, weight: Any) -> Any:
    """Unite the slopes with axis one."""
    return call.elementwise(input, _on_axis_one(weight, input))


def _prelu_value(input: Tensor, weight: Tensor) -> Tensor:
    """PReLU of `input`, which has an additional first axis."""
    return torch.where(input > 0, input, _on_axis_one(weight, input[0]) * input)


@pointwise(*forms("prelu"), convention=BOUND, channels=_prelu_channels, compute=_prelu_value)
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """max(1, |slope of the channel|) x: Lipschitz constant."""
    return input * _on_axis_one(weight.abs().clamp_min(1), input)


@operator(
    *present("zero", "fill", "bernoulli", "normal", "uniform", "exponential", "random"),
    convention=EXACT, channels=keeps_entries, kind="pointwise",
)  # fmt: skip
def fill(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Zero: a constant does not change."""
    return torch.zeros_like(input)


_COMPARISONS = (
    "gt lt ge le eq ne greater less greater_equal less_equal not_equal isclose "
    "logical_and logical_or logical_not logical_xor"
).split()
_TESTS = "isnan isinf isfinite isreal isposinf isneginf signbit".split()
_BITS = "and or xor invert rand ror rxor iand ior ixor lshift rshift".split()
_PYTHON = [getattr(Tensor, f"__{name}__") for name in _COMPARISONS if hasattr(Tensor, f"__{name}__")]


@combines(*present(*_COMPARISONS), *_PYTHON, additive=True, dtypes=(torch.bool,))
@operator(*present(*_TESTS), channels=combines_entries, additive=True, dtypes=(torch.bool,), kind="pointwise")
@combines(
    *present("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", *(f"__{name}__" for name in _BITS)), additive=True
)  # fmt: skip
def compare(*operands: Any, **kwargs: Any) -> Tensor:
    """Zero: masks and integers are assumed not to change."""
    given = [tensor for tensor in (*operands, *kwargs.values()) if isinstance(tensor, Tensor)]
    return torch.zeros((), device=given[0].device).expand(torch.broadcast_shapes(*[tensor.shape for tensor in given]))


def _observed_channels(
    call: ChannelCall, input: Any, observer_on: Any, fake_quant_on: Any, running_min: Any, running_max: Any, scale: Any,
    zero_point: Any, averaging_const: Any, quant_min: Any, quant_max: Any, ch_axis: Any, per_row_fake_quant: Any = False,
    *args: Any,
) -> Any:  # fmt: skip
    """Protect channels that have a scale each: the tensors of scales cannot be pruned."""
    slot = input.labels_along(int(ch_axis) % input.dim()) if per_row_fake_quant and isinstance(input, Proxy) else None
    if slot is not None:
        call.table.freeze(slot, f"has a scale per channel in {call.where}")
    return call.same(input)


@operator(*present("fused_moving_avg_obs_fake_quant"), channels=_observed_channels, first_only=True)
def observed(input: Tensor, *args: Any) -> Tensor:
    """x: rounding is ignored."""
    return input
