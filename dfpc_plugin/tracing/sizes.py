"""Numbers that remember how they were computed.

After pruning, a forward that reshapes to `(batch, tokens, self.num_heads, self.head_dim)` still asks for the original
sizes. So during a pass over channel labels, every integer attribute of a module and every size of an axis of channels
is a `TracedInt`: an integer that knows its expression. Where one becomes the size of an axis, the expression tells
which attribute must change with that axis, or which other axis must keep the same size.
"""

from __future__ import annotations

import contextlib
import math
import operator
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Attribute:
    """An integer kept by a module: `module.name`, or entry `position` of that tuple or list."""

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

    `labels` vary along the axes that have channels; entries can be pruned along the axis `flexible`.
    """

    labels: Tensor
    axis: int
    flexible: int

    def __str__(self) -> str:
        """Describe the axis."""
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
    __array_priority__ = 1000

    def __new__(cls, value: Any, expression: Expression) -> Any:
        self = super().__new__(cls, value)  # type: ignore[call-arg]
        self.expression = expression
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as a plain number: no traced number outlives its pass."""
        plain: Any = float if isinstance(self, float) else int
        return plain, (_plain(self),)

    def __int__(self) -> int:
        value = int(_plain(self))
        _tell(value, self.expression)
        return value

    def __float__(self) -> float:
        value = float(_plain(self))
        _tell(value, self.expression)
        return value

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Let NumPy compute with plain numbers, and report the cast."""
        _tell(float(_plain(self)), self.expression)
        return getattr(ufunc, method)(
            *(_plain(value) if isinstance(value, _Traced) else value for value in inputs), **options
        )


def _plain(value: Any) -> Any:
    """A traced number without its expression."""
    return float.__add__(value, 0.0) if isinstance(value, float) else int.__add__(value, 0)


class TracedFloat(_Traced, float):
    """A float computed from traced integers, such as the scale of attention logits."""


class TracedInt(_Traced, int):
    """An integer attribute, the size of an axis, or an integer computed from such numbers."""


class Casts:
    """Plain numbers that a forward made from traced ones, by `int(width)`, `math.sqrt(width)` or `float(width)`.

    Such a number has lost its expression. So the cast is noted, and the number, or a root or inverse of it, is
    recognised by its value in the same module, its submodules and its parents.
    """

    _POWERS = (1.0, 0.5, -0.5, -1.0, 0.25, -0.25)

    def __init__(self) -> None:
        """Start without casts."""
        self._noted: dict[float, list[tuple[str, Expression]]] = {}

    def note(self, value: float, expression: Expression, module: str) -> None:
        """Note that `module` cast a number computed by `expression`."""
        if value > 1:  # zero and one are too common
            found = self._noted.setdefault(value, [])
            if (module, expression) not in found:
                found.append((module, expression))

    def origin_of(self, value: float, module: Callable[[], str | None]) -> Expression | None:
        """Return how a number was computed from widths, or None; roots and inverses of casts count, too.

        `module` returns the path of the module that uses the number; it is called only if the value matches a cast.
        """
        for base, noted in self._noted.items():
            for power in self._POWERS:
                if math.isclose(value, base**power, rel_tol=1e-6):
                    path = module() or ""
                    for own, expression in noted:
                        if _within(path, own) or _within(own, path):
                            return expression if power == 1.0 else Operation(operator.pow, (expression, power))
        return None

    @contextlib.contextmanager
    def watched(self, module: Callable[[], str | None], paused: Callable[[], bool]) -> Iterator[None]:
        """Note casts of this thread, except while `paused`."""
        before = getattr(_watch, "note", None)
        _watch.note = lambda value, expression: None if paused() else self.note(value, expression, module() or "")
        try:
            yield
        finally:
            _watch.note = before


_watch = threading.local()


def _tell(value: float, expression: Expression) -> None:
    """Report to the watching run, if any, that a traced number was cast."""
    note = getattr(_watch, "note", None)
    if note is not None:
        note(value, expression)


def _within(path: str, other: str) -> bool:
    return path == other or not other or path.startswith(f"{other}.")


def expression_of(value: int) -> Expression:
    """Return how `value` was computed; a plain integer is its own expression."""
    return value.expression if isinstance(value, TracedInt) else int.__add__(value, 0)


def leaves_of(expression: Expression) -> Iterator[Any]:
    """Yield the attributes and axis sizes of an expression; none of None, which stands for a size that torch infers."""
    if isinstance(expression, Operation):
        for operand in expression.operands:
            yield from leaves_of(operand)
    elif expression is not None and not isinstance(expression, int | float):
        yield expression


def attributes_of(expression: Expression) -> list[Attribute]:
    """List the attributes in an expression."""
    return [leaf for leaf in leaves_of(expression) if isinstance(leaf, Attribute)]


def is_linear(expression: Expression) -> bool:
    """Tell whether an expression has only sums, differences and multiples."""
    if not isinstance(expression, Operation):
        return True
    if expression.function is operator.mul and len(list(leaves_of(expression))) > 1:
        return False
    linear = expression.function in (operator.add, operator.sub, operator.neg, operator.mul)
    return linear and all(is_linear(operand) for operand in expression.operands)


def _traced(function: Callable[..., Any], types: Any, *, reflected: bool = False) -> Callable[..., Any]:
    """Make an arithmetic method for operands of some types, which keeps the expression."""

    def method(self: Any, *others: Any) -> Any:
        operands = (*others, self) if reflected else (self, *others)
        if not all(isinstance(operand, types) for operand in operands):
            return NotImplemented
        value = function(*map(_plain, operands))
        expression = Operation(function, tuple([getattr(operand, "expression", operand) for operand in operands]))
        if isinstance(value, int):
            return TracedInt(value, expression)
        _tell(value, expression)
        return TracedFloat(value, expression)

    return method


for _kind, _types, _names in (
    (TracedInt, int, ("add", "sub", "floordiv", "mod")),
    (TracedInt, (int, float), ("pow", "truediv", "mul")),
    (TracedFloat, (int, float), ("pow", "truediv", "mul")),
):
    for _name in _names:
        setattr(_kind, f"__{_name}__", _traced(getattr(operator, _name), _types))
        setattr(_kind, f"__r{_name}__", _traced(getattr(operator, _name), _types, reflected=True))
TracedInt.__neg__ = _traced(operator.neg, int)  # type: ignore[method-assign]
