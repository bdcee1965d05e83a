"""Operators that act entry by entry: entries that meet belong to one channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.flow.registry import forms
from dfpc_plugin.labels.axes import inner_axis, varying
from dfpc_plugin.labels.call import LabelCall, same_rows
from dfpc_plugin.labels.registry import label_rule
from dfpc_plugin.labels.rules.reductions import extreme
from dfpc_plugin.labels.sizes import TracedFloat, TracedInt
from dfpc_plugin.labels.tensor import LabelTensor, shape_of

__all__: list[str] = []

_ONE = (
    "relu relu6 hardtanh tanh softsign logsigmoid celu abs neg negative clamp clip clamp_min clamp_max sin cos atan "
    "arctan asinh softshrink rrelu dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout "
    "feature_alpha_dropout sigmoid hardsigmoid hardswish silu gelu mish selu erf threshold sqrt rsqrt log reciprocal "
    "exp log1p expm1 square softplus leaky_relu elu zero fill tanhshrink hardshrink sgn sign round floor ceil "
    "trunc frac isnan isinf isfinite logit log2 log10 exp2 nan_to_num bernoulli normal uniform"
)
_MANY = (
    "add sub subtract mul multiply div divide true_divide floor_divide pow maximum minimum fmax fmin where lerp addcmul "
    "addcdiv masked_fill atan2 arctan2 remainder fmod rsub logaddexp heaviside xlogy hypot max min float_power"
)


def _registered(names: str) -> tuple[Any, ...]:
    """Every form of the operators that the installed torch has."""
    found: list[Any] = []
    for name in names.split():
        try:
            found += forms(name)
        except AttributeError:
            continue
    return tuple(found)


@label_rule(*_registered(_ONE))
def entry_by_entry(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> LabelTensor:
    """Leaves every entry in its channel."""
    result = call.same(input)
    result.linear = input.linear and call.name in ("neg", "negative", "dropout")
    return result


@label_rule(
    *_registered(_MANY),
    *(getattr(Tensor, f"__{name}__") for name in "radd rsub rmul rtruediv rdiv rpow floordiv rfloordiv mod rmod".split()
      if hasattr(Tensor, f"__{name}__")),
)
def meeting(call: LabelCall, *operands: Any, **kwargs: Any) -> Any:
    """Unites what meets, with broadcasting."""
    if call.name in ("max", "min") and not any(isinstance(operand, Tensor) for operand in operands[1:]):
        return extreme(call, *operands, **kwargs)
    _note_scales(call, operands)
    result = call.elementwise(*operands, *(value for value in kwargs.values() if isinstance(value, Tensor)))
    result.linear = _is_linear(call, operands)
    return result


_SUMS = ("add", "iadd", "radd", "sub", "isub", "subtract")
_PRODUCTS = dict.fromkeys(("mul", "imul", "rmul", "multiply"), 1)
_PRODUCTS |= dict.fromkeys(("div", "truediv", "itruediv", "divide"), -1)
"""Names of products, with the power of their second operand."""


def _is_linear(call: LabelCall, operands: Sequence[Any]) -> bool:
    """Whether a product with constants, or a sum of what the same rows made (a rotation), scales with those rows."""
    first = operands[0]
    if not isinstance(first, LabelTensor) or not first.is_data or not first.linear:
        return False
    others = [operand for operand in operands[1:] if isinstance(operand, Tensor)]
    data = [operand for operand in others if isinstance(operand, LabelTensor) and operand.is_data]
    if call.name in _PRODUCTS:
        return not data
    return call.name in _SUMS and len(data) == len(operands) - 1 and all(
        operand.linear and same_rows(first, operand) for operand in data
    )


def _note_scales(call: LabelCall, operands: Sequence[Any]) -> None:
    """Note a product with, or a quotient by, a number that depends on widths."""
    power = _PRODUCTS.get(call.name)
    numbers = [operand for operand in operands if isinstance(operand, TracedFloat | TracedInt)]
    if power is not None and numbers and isinstance(operands[0], LabelTensor):
        call.scaled(operands[0], numbers[0].expression, power)


@label_rule(*forms("prelu"))
def prelu(call: LabelCall, input: LabelTensor, weight: Any) -> LabelTensor:
    """Slopes belong to the channels on axis one."""
    if weight.numel() > 1 and input.dim() > 1:
        weight = weight.reshape(-1, *[1] * (input.dim() - 2))
    return call.elementwise(input, weight)


@label_rule(*forms("softmax", "log_softmax", "gumbel_softmax", "softmin", "cumsum", "cumprod", "normalize"))
def along_an_axis(call: LabelCall, input: LabelTensor, *args: Any, **kwargs: Any) -> LabelTensor:
    """Mixes entries along an axis without summing it away: as a norm does, it works on whatever is left.

    Along an axis of rows it mixes entries of one position, which go together.
    """
    numbers = [arg for arg in args if isinstance(arg, int)]
    if call.name == "normalize":
        numbers = numbers[-1:] if len(args) > 1 else [1]
    dim = kwargs.get("dim", numbers[0] if numbers else None)
    slots = []
    for slot in input.slots:
        axis = None if dim is None else int(dim) % slot.dim()
        if axis in varying(slot) and axis != inner_axis(slot):
            slot = call.table.unite_along(slot, [axis], call.where).expand(slot.shape)
        slots.append(slot)
    return call.make(shape_of(input), slots)


@label_rule(*forms("glu"))
def glu(call: LabelCall, input: LabelTensor, dim: int = -1) -> Any:
    """One half gates the other."""
    first, second = input.chunk(2, dim)
    return first * second.sigmoid()


@label_rule(F.embedding)
def embedding(call: LabelCall, input: Any, weight: Any, *args: Any, **kwargs: Any) -> LabelTensor:
    """Rows of a table: the rows stay."""
    slots = []
    for slot in weight.slots:
        if slot.stride(0):
            call.freeze(slot, f"is looked up in {call.where}")
        else:
            slots.append(slot[0])
    return call.make((*input.shape, weight.shape[1]), slots)


@label_rule(*_registered("gt lt ge le eq ne logical_and logical_or logical_not logical_xor isclose bitwise_and"))
def compared(call: LabelCall, *operands: Any, **kwargs: Any) -> LabelTensor:
    """Compares entries that meet."""
    return call.elementwise(*operands)
