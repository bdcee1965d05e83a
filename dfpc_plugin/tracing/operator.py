"""The strict table of operators: one record for each, keyed by function object.

A record says everything that is known of an operator: how it carries bounds, variances and means of data, and what becomes
of channels. Everything that follows a model reads this one table, so nothing can be known to one analysis and not to
another. What is not in the table is an error; nothing falls through to the original function.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from dfpc_plugin.errors import DuplicateRuleError

__all__ = [
    "Convention", "Means", "Operator", "find_operator", "forms", "function_name", "present", "process_wide", "register",
    "register_name",
    "registered_rules",
    "rule_scope",
]  # fmt: skip

Rule = TypeVar("Rule", bound=Callable[..., Any])


class Convention(enum.Enum):
    """How the output of a rule relates to the largest change of the operator's output."""

    EXACT = "exact"
    """The rule is |M| x for the operator's own matrix M (or moves entries without changing them)."""
    BOUND = "bound"
    """No change of the operator's output can exceed what the rule returns."""
    APPROXIMATION = "approximation"
    """No bound exists without data; the rule is a stated estimate."""


class Means(enum.Enum):
    """How means and variances of data pass an operator, where its rule for bounds does not say it all."""

    AS_BOUNDS = "as bounds"
    """Variances by the rule for bounds; means are not known behind it."""
    LINEAR = "linear"
    """Variances by the rule for bounds; means by the operator itself."""
    POINTWISE = "pointwise"
    """Both by integrals of the operator over a normal variable."""
    OWN = "own"
    """By the record's `noise`."""


@dataclass(frozen=True)
class Operator:
    """What is known of one operator.

    Attributes:
        bound: The map from bounds to bounds; of an operator that is `composed`, the function that does the same by known
            operators.
        convention: What `bound` promises: exact, a bound, or an approximation.
        channels: What becomes of channels: takes a `ChannelCall` and the operator's arguments. None if that is not known:
            channels that enter it are protected.
        means: How means and variances pass it.
        noise: For `Means.OWN`: takes the arguments by name and the variances that `bound` has made, returns variances and
            means.
        compute: For `Means.POINTWISE`: what the operator computes, where that is not the operator itself.
        kind: "pointwise", "moves", "reduces", "combines", "layer", "composed" or "other"; for tables.
        context: `bound` takes a `LayerContext` as its first argument: it reads or writes couplings, or has to tell data from
            constants.
        couples: Operands meet entry by entry, so their channels stand or fall together.
        view: The operator returns views of its first argument, so a change in place shows through.
        additive: Constant tensors add to the result without changing, so `bound` gets zeros in their place.
        first_only: Data can only be the first argument.
        dtypes: Dtypes of the results, where they are not those of the data; None for a result that has the data's.
    """

    bound: Callable[..., Any]
    convention: Convention
    channels: Callable[..., Any] | None = None
    means: Means = Means.AS_BOUNDS
    noise: Callable[[Mapping[str, Any], Any], Any] | None = None
    compute: Callable[..., Any] | None = None
    kind: str = "other"
    context: bool = False
    couples: bool = False
    view: bool = False
    additive: bool = False
    first_only: bool = False
    dtypes: tuple[torch.dtype | None, ...] = ()

    @property
    def summary(self) -> str:
        """First line of the rule's docstring: the formula and what it assumes."""
        return (self.bound.__doc__ or "").strip().split("\n", 1)[0]


_BY_NAME: dict[str, Operator] = {}
"""Records of operators of other libraries, which are not imported for that, by their name in the dispatcher."""
_PROCESS: dict[Callable[..., Any], Operator] = {}
_SCOPES: contextvars.ContextVar[tuple[dict[Callable[..., Any], Operator], ...]] = contextvars.ContextVar(
    "dfpc_operators", default=()
)


def register(functions: tuple[Callable[..., Any], ...], record: Operator, *, override: bool = False) -> None:
    """Enter `record` for every one of `functions`: in the innermost `rule_scope`, else for the process.

    Raises:
        DuplicateRuleError: One of them has a record, this is no scope, and `override` is not set.
        TypeError: One of them is not callable.
    """
    scopes = _SCOPES.get()
    table = scopes[-1] if scopes else _PROCESS
    for function in functions:
        if not callable(function):
            raise TypeError(f"rule() takes the operators themselves, not {function!r}")
        if not scopes and function in table and not override:
            raise DuplicateRuleError(function_name(function))
    table.update(dict.fromkeys(functions, record))


def register_name(name: str, record: Operator) -> None:
    """Enter `record` for an operator of another library, such as "torchvision::roi_align".

    Raises:
        DuplicateRuleError: It has a record.
    """
    if name in _BY_NAME:
        raise DuplicateRuleError(name)
    _BY_NAME[name] = record


@contextlib.contextmanager
def rule_scope() -> Iterator[None]:
    """Keep the rules registered inside the block to the block (and to this thread or task)."""
    token = _SCOPES.set((*_SCOPES.get(), {}))
    try:
        yield
    finally:
        _SCOPES.reset(token)


@contextlib.contextmanager
def process_wide() -> Iterator[None]:
    """Keep the rules registered inside the block for the whole process, also where a `rule_scope` is open around it."""
    token = _SCOPES.set(())
    try:
        yield
    finally:
        _SCOPES.reset(token)


def find_operator(function: Callable[..., Any]) -> Operator | None:
    """Return the record in force for an operator, innermost scope first, or None."""
    scopes = _SCOPES.get()
    if scopes:
        for table in reversed(scopes):
            if function in table:
                return table[function]
    found = _PROCESS.get(function)
    if found is None and isinstance(function, torch._ops.OpOverloadPacket | torch._ops.OpOverload):
        packet = function.overloadpacket if isinstance(function, torch._ops.OpOverload) else function
        return _BY_NAME.get(packet._qualified_op_name)
    return found


def registered_rules() -> Mapping[Callable[..., Any], Operator]:
    """Return every record in force, for documentation and tests."""
    merged = dict(_PROCESS)
    for table in _SCOPES.get():
        merged.update(table)
    return merged


_PYTHON_OPERATORS = frozenset("add sub mul truediv div pow matmul neg abs pos and or xor invert".split())


def forms(*names: str) -> tuple[Callable[..., Any], ...]:
    """Return every form in which torch offers an operator: function, method, functional, in place, `+` and `+=`.

    Reversed operators (`__rsub__`) are not included: their operands are exchanged.

    Raises:
        AttributeError: torch has none of the names.
    """
    found = present(*names)
    if not found:
        raise AttributeError(f"torch has no function named {' or '.join(names)}")
    return found


def present(*names: str) -> tuple[Callable[..., Any], ...]:
    """Return the forms of those names that the installed torch has; none is no error."""
    found: dict[Callable[..., Any], None] = {}
    for name in names:
        spellings = [name, f"{name}_"]
        if name in _PYTHON_OPERATORS:
            spellings += [f"__{name}__", f"__i{name}__"]
        for spelling in spellings:
            for home in (torch, torch.Tensor, F, torch._C._nn, torch.special):
                function = getattr(home, spelling, None)
                if callable(function):
                    found[function] = None
    return tuple(found)


@functools.lru_cache(maxsize=1024)
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
