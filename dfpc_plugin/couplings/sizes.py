"""The sizes that a forward requests after pruning, and the attributes that must change so that these fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.couplings.channels import Channels, Size
from dfpc_plugin.tracing.sizes import Attribute, AxisSize, Expression, Operation, attributes_of

_MOST_TRIED = 2**14


class Violation(Exception):
    """The forward cannot work without these channels; the message says which operator needs what size."""


class Unequal(Exception):
    """Rows that must be equally long are not."""


def count(size: Size, removed: Tensor) -> int:
    """Count a required size without the `removed` channels; raises Unequal if rows have different lengths."""
    left = ~removed[size.channels]
    if size.along_rows:
        return int(left.any(1).sum())
    counts = {*left.sum(1).tolist()} - {0}
    if len(counts) > 1:
        raise Unequal
    return counts.pop() if counts else 0


def evaluate(expression: Expression, channels: Channels, removed: Tensor, values: Mapping[Attribute, int]) -> Any:
    """Compute a size, or a number made from sizes, as the forward will."""
    if isinstance(expression, Attribute):
        return values.get(expression, expression.value)
    if isinstance(expression, AxisSize):
        return count(channels.leaves[expression], removed)
    if isinstance(expression, Operation):
        operands = [evaluate(operand, channels, removed, values) for operand in expression.operands]
        return expression.function(*operands)
    return expression


def solve(channels: Channels, removed: Tensor, sizes: list[Size], mentions: Mapping[Attribute, list[Size]]) -> dict:
    """Find attribute values with which every requested size equals the size that remains; returns those that change.

    `removed` are all removed channels, those pruned earlier included; `sizes` those required sizes that the removal changes;
    `mentions` all required sizes by the attributes that they are computed from. Raises Violation if there are no such values.
    """
    values: dict[Attribute, int] = {}
    found: dict[int, int] = {}
    for size in sizes:
        try:
            found[id(size)] = count(size, removed)
        except Unequal:
            raise Violation(f"{size.where} needs equally many channels in every row") from None
        if isinstance(size.expression, Attribute):
            values.setdefault(size.expression, found[id(size)])
    pending = [size for size in sizes if size.expression is not None]
    for size in pending:
        unknown = [a for a in attributes_of(size.expression) if a not in values]
        if _asked(size, channels, removed, values) != found[id(size)] and unknown:
            _try_attributes(size, unknown, found[id(size)], channels, removed, values)
    others = [size for attribute in values for size in mentions.get(attribute, ()) if id(size) not in found]
    for size in [*pending, *others]:
        needed = found.get(id(size))
        needed = count(size, removed) if needed is None else needed
        asked = _asked(size, channels, removed, values)
        if asked != needed:
            raise Violation(f"{size.where} needs size {asked}, but {needed} would remain")
    return {attribute: value for attribute, value in values.items() if value != attribute.value}


def _asked(size: Size, channels: Channels, removed: Tensor, values: Mapping[Attribute, int]) -> int:
    try:
        return evaluate(size.expression, channels, removed, values)
    except Unequal:
        raise Violation(f"{size.where} reads a size that would differ between rows") from None
    except ZeroDivisionError:
        return -1


def _try_attributes(
    size: Size, unknown: list[Attribute], needed: int, channels: Channels, removed: Tensor, values: dict[Attribute, int]
) -> None:
    """Give one attribute a value with which the expression fits: in proportion, or else the largest."""
    asked = _asked(size, channels, removed, values)
    for attribute in unknown:
        in_proportion = attribute.value * needed // asked if asked > 0 else 0
        for value in (in_proportion, *range(min(attribute.value, _MOST_TRIED), 0, -1)):
            if _asked(size, channels, removed, {**values, attribute: value}) == needed:
                values[attribute] = value
                return


def before_and_after(
    expression: Expression, channels: Channels, *states: tuple[Tensor, Mapping[Attribute, int]]
) -> tuple[Any, Any]:
    """Compute a number with two sets of removed channels and attribute values; None twice where no single number fits."""
    try:
        before, after = (evaluate(expression, channels, *state) for state in states)
    except (Unequal, ZeroDivisionError):
        return None, None
    return before, after


def changed_factors(channels: Channels) -> list[str]:
    """List operators that multiply by a number which pruning changed and no rows of weights can compensate for."""
    unpruned: dict[Attribute, int] = {}
    whole, now = (torch.zeros_like(channels.removed), unpruned), (channels.removed, channels.values)
    changed: dict[str, str] = {}
    for where, expressions in channels.unscaled.items():
        for old, new in (before_and_after(expression, channels, whole, now) for expression in expressions):
            if old != new:
                changed.setdefault(where, f"{where} ({float(old):.4g} is {float(new):.4g} now)")
    return list(changed.values())
