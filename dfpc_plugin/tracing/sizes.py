"""Numbers that remember where they come from.

A forward that reshapes to `(batch, tokens, self.num_heads, self.head_dim)` will, after a cut, ask for the numbers of the
uncut model. While a pass over channel labels runs, every integer that a module keeps in an attribute, and every size of
an axis that holds channels, is a `TracedInt`: an ordinary integer that also knows the expression it was computed by.
Where one ends up as the size of an axis, the expression tells which attribute has to change with that axis, or which
other axis it has to stay equal to.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = [
    "Attribute", "AxisSize", "Expression", "Operation", "TracedFloat", "TracedInt", "attributes_of", "expression_of", "is_linear",
    "leaves_of",
]


@dataclass(frozen=True)
class Attribute:
    """An integer kept by a module: `module.name`, or its entry `position` where it is a tuple or a list."""

    module: str
    name: str
    value: int
    position: int | None = None

    def __str__(self) -> str:
        """Spell it as in the model's code."""
        path = f"{self.module}.{self.name}" if self.module else self.name
        return path if self.position is None else f"{path}[{self.position}]"


@dataclass(frozen=True, eq=False)
class AxisSize:
    """A leaf of an expression: the size of an axis, read from a tensor's shape.

    Attributes:
        labels: Labels along the axes that have channels.
        axis: The axis that was read.
        flexible: The axis along which entries can go.
    """

    labels: Tensor
    axis: int
    flexible: int

    def __str__(self) -> str:
        """Say what it is."""
        return f"the size of axis {self.axis} of {tuple(self.labels.shape)}"


@dataclass(frozen=True)
class Operation:
    """An arithmetic operation on expressions and plain integers."""

    function: Callable[..., Any]
    operands: tuple[Any, ...]

    def __str__(self) -> str:
        """Spell it as a call."""
        return f"{self.function.__name__}({', '.join(map(str, self.operands))})"


Expression = Any
"""An `Attribute`, an `AxisSize`, an `Operation` or a plain number."""


class _Traced:
    """A number with the expression it was computed by."""

    expression: Expression

    def __new__(cls, value: Any, expression: Expression) -> Any:
        """Make the number `value` that came out of `expression`."""
        self = super().__new__(cls, value)  # type: ignore[call-arg]
        self.expression = expression
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are plain numbers: nothing of a pass outlives it."""
        plain: Any = float if isinstance(self, float) else int
        return plain, (plain(self),)


class TracedFloat(_Traced, float):
    """A number computed from traced integers, such as the scale of attention logits."""


class TracedInt(_Traced, int):
    """An integer that a module keeps, the size of an axis, or a number computed from such."""


def expression_of(value: int) -> Expression:
    """Return how `value` was computed; a plain integer stands for itself."""
    return value.expression if isinstance(value, TracedInt) else int(value)


def leaves_of(expression: Expression) -> Iterator[Any]:
    """Walk the attributes and axis sizes that an expression is made from."""
    if isinstance(expression, Operation):
        for operand in expression.operands:
            yield from leaves_of(operand)
    elif not isinstance(expression, int | float):
        yield expression


def attributes_of(expression: Expression) -> list[Attribute]:
    """List the attributes in an expression."""
    return [leaf for leaf in leaves_of(expression) if isinstance(leaf, Attribute)]


def is_linear(expression: Expression) -> bool:
    """Tell whether an expression holds nothing but sums, differences and multiples."""
    if not isinstance(expression, Operation):
        return True
    if expression.function is operator.mul and len(list(leaves_of(expression))) > 1:
        return False
    linear = expression.function in (operator.add, operator.sub, operator.neg, operator.mul)
    return linear and all(is_linear(operand) for operand in expression.operands)


def _traced(function: Callable[..., int], *, reflected: bool = False) -> Callable[..., Any]:
    """Make an arithmetic method that keeps the expression."""

    def method(self: TracedInt, *others: Any) -> Any:
        operands = (*others, self) if reflected else (self, *others)
        if not all(isinstance(operand, int) for operand in operands):
            return NotImplemented
        value = function(*map(int, operands))
        return TracedInt(value, Operation(function, tuple(expression_of(operand) for operand in operands)))

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(TracedInt, f"__{_name}__", _traced(getattr(operator, _name)))
    setattr(TracedInt, f"__r{_name}__", _traced(getattr(operator, _name), reflected=True))
TracedInt.__neg__ = _traced(operator.neg)  # type: ignore[method-assign]


def _scale(function: Callable[..., float], *, reflected: bool = False) -> Callable[..., Any]:
    """Make an arithmetic method whose result is a number other than an integer."""

    def method(self: Any, other: Any) -> Any:
        operands = (other, self) if reflected else (self, other)
        if not all(isinstance(operand, int | float) for operand in operands):
            return NotImplemented
        value = function(*(float(x) if isinstance(x, float) else int(x) for x in operands))
        expression = Operation(function, tuple(getattr(x, "expression", x) for x in operands))
        return TracedInt(value, expression) if isinstance(value, int) else TracedFloat(value, expression)

    return method


for _name in ("pow", "truediv", "mul"):
    setattr(TracedFloat, f"__{_name}__", _scale(getattr(operator, _name)))
    setattr(TracedFloat, f"__r{_name}__", _scale(getattr(operator, _name), reflected=True))
for _name in ("pow", "truediv"):
    setattr(TracedInt, f"__{_name}__", _scale(getattr(operator, _name)))
    setattr(TracedInt, f"__r{_name}__", _scale(getattr(operator, _name), reflected=True))
