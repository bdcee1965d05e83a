"""Functions that declare an operator's record: how bounds, variances, means and channels pass it.

`rule` is for users' operators, `composed` for an operator that is a composition of known ones, and `operator` for all
others; `pointwise`, `combines` and `moves` are `operator` with the fields of a kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.tracing.operator import Convention, Means, Operator, find_operator, register

Rule = TypeVar("Rule", bound=Callable[..., Any])

EXACT, BOUND, APPROXIMATION = Convention.EXACT, Convention.BOUND, Convention.APPROXIMATION


def keeps_entries(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Every element keeps its channel; tensors among the other arguments are united with it element by element."""
    others = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return call.elementwise(input, *others) if others else call.same(input)


def combines_entries(call: ChannelCall, *operands: Any, **kwargs: Any) -> Any:
    """Elements combined by broadcasting belong to one channel."""
    return call.elementwise(*operands, *kwargs.values())


def moves_entries(native: Callable[..., Any]) -> Callable[..., Any]:
    """Return a channel rule that applies the operator itself to labels."""

    def move(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
        return call.moved(input, lambda labels: native(labels, *args, **kwargs))

    return move


def operator(
    *functions: Callable[..., Any],
    convention: Convention = APPROXIMATION,
    channels: Callable[..., Any] | None,
    noise: Callable[[Mapping[str, Any], Tensor], Any] | None = None,
    **fields: Any,
) -> Callable[[Rule], Rule]:
    """Register a record for `functions`, with the decorated function as their rule for bounds.

    The other `fields` are those of `Operator`. Unless they say more, only the first argument can be data.
    """
    fields.setdefault("means", Means.AS_BOUNDS if noise is None else Means.OWN)
    fields.setdefault("first_only", not any(map(fields.get, ("context", "couples", "additive", "view"))))

    def write(bound: Rule) -> Rule:
        register(functions, Operator(bound, convention, channels, noise=noise, **fields))
        return bound

    return write


def native(function: Callable[..., Any], module: str, formula: str = "Moves entries.") -> Callable[..., Any]:
    """Return the operator itself as a rule for bounds, as one of the rules of `module`."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    apply.__module__, apply.__doc__ = module, formula
    return apply


combines = partial(operator, channels=combines_entries, couples=True, kind="combines")
"""`operator` for those that combine elements by broadcasting."""

pointwise = partial(operator, channels=keeps_entries, means=Means.POINTWISE, kind="pointwise")
"""`operator` for element-wise functions of one tensor."""

moves = partial(operator, convention=EXACT, means=Means.LINEAR, kind="moves")
"""`operator` for those that move or copy elements."""


def composed(*functions: Callable[..., Any], override: bool = False) -> Callable[[Rule], Rule]:
    """Declare `functions` as compositions of known operators, written out in the decorated function.

    The decorated function takes the operator's arguments and is traced in its place, for scores and for channels. It
    may differ from the operator in rounding, and may leave out what has no effect on shapes and weights. It need not write in
    place: where the operator does, by its name or `out=`, the target takes the result.

    Args:
        *functions: Operators as the model calls them.
        override: Replace an existing record for the process.

    Raises:
        DuplicateRuleError: An operator already has a record.
        TypeError: An entry of `functions` is not callable.
    """

    def write(function: Rule) -> Rule:
        register(functions, Operator(function, Convention.APPROXIMATION, kind="composed"), override=override)
        return function

    return write


_KINDS = ("pointwise", "combines", "moves")


def rule(
    *functions: Callable[..., Any],
    convention: Convention | str = Convention.APPROXIMATION,
    kind: str | None = None,
    context: bool = False,
    couples: bool = False,
    view: bool = False,
    additive: bool = False,
    override: bool = False,
) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of `functions` for bounds, and their `kind` for channels.

    Inside `rule_scope()` the registration ends with the block and may replace a built-in rule. Elsewhere it holds for
    the process, and a second rule for an operator is an error unless `override` is set.

    Args:
        *functions: Operators as the model calls them: `torch.nn.functional.relu`, `torch.Tensor.relu_`, or your own
            function if it dispatches to `torch.overrides.handle_torch_function`.
        convention: Whether the rule is exact, a bound or an approximation.
        kind: How channels pass. "pointwise": an element-wise function of one tensor; it is also integrated for expected
            errors. "combines": operands are combined element by element. "moves": the rule moves, copies or selects
            elements of its first argument, and can be applied to any tensor. None: as in the record that the rule
            replaces; channels that enter a new operator are protected. For a layer, see `composed`.
        context: The rule takes a `LayerContext` as its first argument.
        couples: Operands are combined element by element, so their layers belong to one coupling.
        view: The operator returns views of its first argument.
        additive: Constant tensors only add to the result; the rule gets zeros in their place.
        override: Replace an existing rule for the process.

    Raises:
        DuplicateRuleError: An operator already has a rule.
        TypeError: An entry of `functions` is not callable, or the kind is unknown.
    """
    if not functions:
        raise TypeError("rule() needs at least one operator, for example @rule(torch.nn.functional.relu)")
    if kind is not None and kind not in _KINDS:
        raise TypeError(f"rule() knows the kinds {', '.join(_KINDS)}, not {kind!r}")

    def write(bound: Rule) -> Rule:
        channels = {"pointwise": keeps_entries, "combines": combines_entries, "moves": moves_entries(bound)}
        record = Operator(
            bound,
            Convention(convention),
            channels.get(kind or ""),
            Means.POINTWISE if kind == "pointwise" else Means.AS_BOUNDS,
            kind=kind or "other",
            context=context,
            couples=couples or kind == "combines",
            view=view,
            additive=additive,
        )
        for function in functions:
            known = find_operator(function) if kind is None else None
            kept = (
                record if known is None else dataclasses.replace(record, channels=known.channels, dtypes=known.dtypes)
            )
            register((function,), kept, override=override)
        return bound

    return write
