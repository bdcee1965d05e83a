"""How records of operators are written: one declaration says what becomes of bounds, variances, means and channels.

Most operators are of a kind, and the kind says it all: `pointwise` for functions of every entry by itself, `moves` for what
moves, copies or picks entries, `combines` for what joins tensors entry by entry, `reduces` for what sums axes away. `operator`
writes any other record, and `composed` an operator that does what some known ones do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.tracing.operator import Convention, Means, Operator, find_operator, register

__all__ = ["combines_entries", "composed", "keeps_entries", "moves_entries", "operator", "pointwise", "rule"]

Rule = TypeVar("Rule", bound=Callable[..., Any])
_Functions = tuple[Callable[..., Any], ...]

EXACT, BOUND, APPROXIMATION = Convention.EXACT, Convention.BOUND, Convention.APPROXIMATION


def keeps_entries(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Every entry stays in its channel; tensors among the other arguments meet it entry by entry."""
    others = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return call.elementwise(input, *others) if others else call.same(input)


def combines_entries(call: ChannelCall, *operands: Any, **kwargs: Any) -> Any:
    """Entries that meet, with broadcasting, belong to one channel."""
    return call.elementwise(*operands, *kwargs.values())


def moves_entries(native: Callable[..., Any]) -> Callable[..., Any]:
    """Labels are moved by the operator itself."""

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
    """Write the record of `functions`; the decorated function is their rule for bounds. See `Operator`."""
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
    """Write the record of functions of every entry by itself, whose bound is `slope` times that of the entry."""

    def scaled(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return input if slope == 1 else input * slope

    scaled.__name__ = name or getattr(functions[0], "__name__", "pointwise")
    scaled.__doc__ = f"{'' if slope == 1 else f'{slope:.4g} '}x: {reason}."
    register(functions, pointwise_record(scaled, convention, compute=compute if integrate else _nowhere))


def pointwise_record(
    bound: Callable[..., Any], convention: Convention, *, compute: Callable[..., Any] | None = None
) -> Operator:
    """The record of a function of every entry by itself."""
    return Operator(
        bound, convention, keeps_entries, Means.POINTWISE, compute=compute, kind="pointwise", first_only=True
    )  # fmt: skip


def _nowhere(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Not integrated: of a function with a pole, or that is not defined everywhere, the slope has to do."""
    return torch.full_like(input, torch.nan)


def composed(*functions: Callable[..., Any], override: bool = False) -> Callable[[Rule], Rule]:
    """Say that `functions` do what the decorated function does with operators that are known.

    The function takes the operator's own arguments and is followed in its place, for scores and for channels, so that one
    declaration serves both. It need not compute the same values to the last bit, and may leave out what has no effect on
    shapes and weights.

    Args:
        *functions: Operators as the model calls them.
        override: Replace an existing record for the process.

    Raises:
        DuplicateRuleError: An operator has a record already.
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

    Inside `rule_scope()` the registration ends with the block and may replace a built-in rule; elsewhere it holds for
    the process and a second rule for the same operator is an error unless `override` is set.

    Args:
        *functions: Operators as the model calls them: `torch.nn.functional.relu`, `torch.Tensor.relu_`, your own
            function if it hands over to `torch.overrides.handle_torch_function`.
        convention: What the rule promises; an approximation unless said otherwise.
        kind: What becomes of channels. "pointwise": a function of every entry by itself; it is also integrated for expected
            errors. "combines": operands meet entry by entry. "moves": the rule moves, copies or picks entries of its first
            argument, and does the same to whatever it is given. None: as of the record that the rule replaces; of a new
            operator, channels that enter it are protected; for a layer, see `composed`.
        context: The rule takes a `LayerContext` as its first argument.
        couples: Operands meet entry by entry, so their layers belong to one coupling.
        view: The operator returns views of its first argument.
        additive: Constant tensors reach the rule as zeros: they add to the result without changing.
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
