"""The table of label rules: what every operator does to the channels of its operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["find_label_rule", "label_rule"]

LabelRule = TypeVar("LabelRule", bound=Callable[..., Any])

_RULES: dict[Callable[..., Any], Callable[..., Any]] = {}


def label_rule(*functions: Callable[..., Any]) -> Callable[[LabelRule], LabelRule]:
    """Register the decorated function as the label rule of `functions`.

    A rule takes a `LabelCall` and then the operator's own arguments, in which data, weights and constants of the model
    are `LabelTensor`s, and returns what `LabelCall.make` makes, in the structure in which the operator returns it.
    """

    def register(rule: LabelRule) -> LabelRule:
        _RULES.update(dict.fromkeys(functions, rule))
        return rule

    return register


def find_label_rule(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return the rule of an operator, or None."""
    return _RULES.get(function)
