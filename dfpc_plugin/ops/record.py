"""Functions that declare an operator's record: how bounds, variances, means and channels pass it.

`pointwise` is for element-wise functions of one tensor, `rule` for users' operators, `composed` for an operator that is
a composition of known ones, and `operator` for all others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.tracing.operator import Convention, Means, Operator, find_operator, register

Rule = TypeVar("Rule", bound=Callable[..., Any])
_Functions = tuple[Callable[..., Any], ...]

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
    means: Means | None = None,
    noise: Callable[[Mapping[str, Any], Tensor], Any] | None = None,
    compute: Callable[..., Any] | None = None,
    kind: str = "other",
    context: bool = False,
    couples: bool = False,
    view: bool = False,
    additive: bool = False,
    first_only: bool | None = None,
    dtypes: tuple[torch.dtype | None, ...] = (),
) -> Callable[[Rule], Rule]:
    """Register a record for `functions`, with the decorated function as their rule for bounds. See `Operator`."""
    passing = means or (Means.AS_BOUNDS if noise is None else Means.OWN)

    def write(bound: Rule) -> Rule:
        only_first = not (context or couples or additive or view) if first_only is None else first_only
        register(
            functions,
            Operator(
                bound,
                convention,
                channels,
                passing,
                noise,
                compute,
                kind,
                context,
                couples,
                view,
                additive,
                only_first,
                dtypes,
            ),
        )
        return bound

    return write


def pointwise(
    functions: _Functions,
    slope: float,
    reason: str,
    *,
    convention: Convention = BOUND,
    integrate: bool = True,
    compute: Callable[..., Any] | None = None,
    name: str = "",
) -> None:
    """Register element-wise functions whose bound is `slope` times that of their input."""

    def scaled(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return input if slope == 1 else input * slope

    scaled.__name__ = name or getattr(functions[0], "__name__", "pointwise")
    scaled.__doc__ = f"{'' if slope == 1 else f'{slope:.4g} '}x: {reason}."
    register(functions, pointwise_record(scaled, convention, compute=compute if integrate else _nowhere))


def pointwise_record(
    bound: Callable[..., Any], convention: Convention, *, compute: Callable[..., Any] | None = None
) -> Operator:
    """Return the record of an element-wise function."""
    return Operator(
        bound, convention, keeps_entries, Means.POINTWISE, compute=compute, kind="pointwise", first_only=True
    )  # fmt: skip


def _nowhere(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """NaN, so that a function with a pole, or undefined somewhere, is not integrated and its slope is used."""
    return torch.full_like(input, torch.nan)


def composed(*functions: Callable[..., Any], override: bool = False) -> Callable[[Rule], Rule]:
    """Declare `functions` as compositions of known operators, written out in the decorated function.

    The decorated function takes the operator's arguments and is traced in its place, for scores and for channels. It
    may differ from the operator in rounding, and may leave out what has no effect on shapes and weights.

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
