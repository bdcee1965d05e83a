"""The strict table of data-flow rules: one per operator, keyed by function object.

A rule maps absolute bounds to absolute bounds: it gets plain tensors where the model's forward passes data, holding a
bound on how much every entry can change, detached plain tensors for weights, and returns plain tensors. What is not in
the table is an error; nothing falls through to the original function.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from dfpc_plugin.errors import DuplicateRuleError

__all__ = ["Convention", "Rule", "find_rule", "forms", "function_name", "registered_rules", "rule", "rule_scope"]

RuleFunction = TypeVar("RuleFunction", bound=Callable[..., Any])


class Convention(enum.Enum):
    """How the output of a rule relates to the largest change of the operator's output."""

    EXACT = "exact"
    """The rule is |M| x for the operator's own matrix M (or moves entries without changing them)."""
    BOUND = "bound"
    """No change of the operator's output can exceed what the rule returns."""
    APPROXIMATION = "approximation"
    """No bound exists without data; the rule is a stated estimate."""


@dataclass(frozen=True)
class Rule:
    """One entry of the table.

    Attributes:
        function: The map from absolute bounds to absolute bounds.
        convention: Exact, a bound, or an approximation.
        context: The rule takes a `LayerContext` as its first argument: it reads or writes couplings, or has to tell
            data from constants.
        couples: Operands meet entry by entry, so their channels stand or fall together.
        view: The operator returns views of its first argument, so a change in place shows through.
        additive: Constant tensors add to the result without changing, so the rule gets zeros in their place.
    """

    function: Callable[..., Any]
    convention: Convention
    context: bool = False
    couples: bool = False
    view: bool = False
    additive: bool = False

    @property
    def one_operand(self) -> bool:
        """Whether data can only be the first argument: so for built-in rules that say nothing else.

        View operators take shapes and dtypes from further tensors, which is no use of their data; an index is.
        """
        if not self.function.__module__.startswith("dfpc_plugin.") or self.context or self.couples or self.additive:
            return False
        return not self.view or self.function.__name__ == "getitem"

    @property
    def summary(self) -> str:
        """First line of the rule's docstring: the formula and what it assumes."""
        return (self.function.__doc__ or "").strip().split("\n", 1)[0]


_PROCESS_RULES: dict[Callable[..., Any], Rule] = {}
_SCOPED_RULES: contextvars.ContextVar[tuple[dict[Callable[..., Any], Rule], ...]] = contextvars.ContextVar(
    "dfpc_scoped_rules", default=()
)


def rule(
    *functions: Callable[..., Any],
    convention: Convention | str = Convention.APPROXIMATION,
    context: bool = False,
    couples: bool = False,
    view: bool = False,
    additive: bool = False,
    override: bool = False,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated function as the data-flow rule of `functions`.

    Inside `rule_scope()` the registration ends with the block and may replace a built-in rule; elsewhere it holds for
    the process and a second rule for the same operator is an error unless `override` is set.

    Args:
        *functions: Operators as the model calls them: `torch.nn.functional.relu`, `torch.Tensor.relu_`, your own
            function if it hands over to `torch.overrides.handle_torch_function`.
        convention: What the rule promises; an approximation unless said otherwise.
        context: The rule takes a `LayerContext` as its first argument.
        couples: Operands meet entry by entry, so their layers belong to one coupling.
        view: The operator returns views of its first argument.
        additive: Constant tensors reach the rule as zeros: they add to the result without changing.
        override: Replace an existing rule for the process.

    Raises:
        DuplicateRuleError: An operator already has a rule.
        TypeError: An entry of `functions` is not callable.
    """
    if not functions:
        raise TypeError("rule() needs at least one operator, for example @rule(torch.nn.functional.relu)")

    def register(function: RuleFunction) -> RuleFunction:
        entry = Rule(function, Convention(convention), context=context, couples=couples, view=view, additive=additive)
        scopes = _SCOPED_RULES.get()
        table = scopes[-1] if scopes else _PROCESS_RULES
        for operator in functions:
            if not callable(operator):
                raise TypeError(f"rule() takes the operators themselves, not {operator!r}")
            if not scopes and operator in table and not override:
                raise DuplicateRuleError(function_name(operator))
        table.update(dict.fromkeys(functions, entry))
        return function

    return register


@contextlib.contextmanager
def rule_scope() -> Iterator[None]:
    """Keep the rules registered inside the block to the block (and to this thread or task)."""
    token = _SCOPED_RULES.set((*_SCOPED_RULES.get(), {}))
    try:
        yield
    finally:
        _SCOPED_RULES.reset(token)


def find_rule(function: Callable[..., Any]) -> Rule | None:
    """Return the rule in force for an operator, innermost scope first, or None."""
    for table in reversed(_SCOPED_RULES.get()):
        if function in table:
            return table[function]
    return _PROCESS_RULES.get(function)


def registered_rules() -> Mapping[Callable[..., Any], Rule]:
    """Return every rule in force, for documentation and tests."""
    merged = dict(_PROCESS_RULES)
    for table in _SCOPED_RULES.get():
        merged.update(table)
    return merged


_PYTHON_OPERATORS = frozenset("add sub mul truediv div pow matmul neg abs pos".split())


def forms(*names: str) -> tuple[Callable[..., Any], ...]:
    """Return every form in which torch offers an operator: function, method, functional, in place, `+` and `+=`.

    Reversed operators (`__rsub__`) are not included: their operands are exchanged.

    Raises:
        AttributeError: torch has none of the names.
    """
    found: dict[Callable[..., Any], None] = {}
    for name in names:
        spellings = [name, f"{name}_"]
        if name in _PYTHON_OPERATORS:
            spellings += [f"__{name}__", f"__i{name}__"]
        for spelling in spellings:
            for home in (torch, torch.Tensor, F, torch._C._nn):
                function = getattr(home, spelling, None)
                if callable(function):
                    found[function] = None
    if not found:
        raise AttributeError(f"torch has no function named {' or '.join(names)}")
    return tuple(found)


def function_name(function: Callable[..., Any]) -> str:
    """Name an operator the way its user would write it: `torch.nn.functional.relu`, `torch.Tensor.add_`."""
    attribute = getattr(function, "__self__", None)  # of Tensor.shape.__get__: the attribute itself
    if attribute is not None and getattr(attribute, "__objclass__", None) is not None:
        return f"torch.Tensor.{attribute.__name__}"
    name = getattr(function, "__name__", None) or type(function).__name__
    for home, path in ((torch.Tensor, "torch.Tensor"), (torch, "torch"), (F, "torch.nn.functional")):
        if getattr(home, name, None) is function:
            return f"{path}.{name}"
    module = getattr(function, "__module__", None) or ""
    if module.startswith("torch._C._"):  # torch.fft, torch.linalg, torch.special
        namespace = module.removeprefix("torch._C._")
        return f"torch.{namespace}.{name.removeprefix(namespace + '_')}"
    return f"{module}.{name}" if module else name
