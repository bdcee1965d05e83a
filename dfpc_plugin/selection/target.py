"""The target of pruning: `Target(macs=0.5)`, or "macs=0.5" as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, TypeVar

from dfpc_plugin import arguments
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data import did_you_mean
from dfpc_plugin.selection.budget_kinds import Budget, Counted, Removed, Scored, Timed

B = TypeVar("B", bound=Budget)


class TargetError(DFPCError, ValueError):
    """A target is invalid, or a model cannot be pruned to it."""


def _budget(budget: Budget) -> Any:
    """Declare a field of `Target`; a new budget needs nothing else."""
    return field(default=None, metadata={"budget": budget})


@dataclass(frozen=True)
class Target:
    """Budgets that must hold together; None for no such budget.

    Attributes:
        ratio: Share of the channels to remove: 0.3 removes 30 % of those of all couplings that can be pruned, including
            channels that limits keep.
        macs: Share of the MACs to keep: 0.5 halves them.
        params: Share of the parameters to keep.
        speedup: Measured speed-up over the unpruned model: 1.5.
        latency_ms: Measured latency of one forward of the example inputs, in ms.
        max_drop: Largest drop of `evaluate`, in its own units. Alone, as much is pruned as it allows; with other budgets,
            these are reached and this must hold as well.
    """

    ratio: float | None = _budget(
        Removed("share of the channels to remove, between 0 and 1", 0.3, 0, 1, attrgetter("channels"), "channels")
    )
    macs: float | None = _budget(
        Counted("share of the MACs to keep, between 0 and 1", 0.5, 0, 1, attrgetter("macs"), "MACs")
    )
    params: float | None = _budget(
        Counted("share of the parameters to keep, between 0 and 1", 0.5, 0, 1, attrgetter("parameters"), "parameters")
    )
    speedup: float | None = _budget(
        Timed(
            "speed-up, above 1", 1.5, 1, math.inf,
            seconds=lambda value, now: now / value,
            surplus=lambda value, speedup, seconds: speedup / value,
            measure=lambda speedup, seconds: speedup,
            at_least=True,
        )
    )  # fmt: skip
    latency_ms: float | None = _budget(
        Timed(
            "latency in ms, above 0", 4.2, 0, math.inf,
            seconds=lambda value, now: 1e-3 * value,
            surplus=lambda value, speedup, seconds: 1e-3 * value / seconds,
            measure=lambda speedup, seconds: 1e3 * seconds,
        )
    )  # fmt: skip
    max_drop: float | None = _budget(Scored("loss to allow, 0 or more", 2, 0, math.inf))

    def __post_init__(self) -> None:
        """Raise TargetError, naming the value, unless all values are valid."""
        given = list(self.given(Budget))
        if not given:
            raise TargetError(f"A target needs at least one of {', '.join(BUDGETS)}; for example macs=0.5.")
        for name, budget, value in given:
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise TargetError(f"{name}={value!r} is no number; for example {_example(name)}.")
            if not budget.allows(value):
                raise TargetError(f"{name}={value:g} is no {budget.summary}; for example {_example(name)}.")

    @classmethod
    def parse(cls, text: str | Target) -> Target:
        """Read budgets with their values, joined by commas.

        Args:
            text: Such as "macs=0.5" or "speedup=1.5, max_drop=2"; a target is returned as it is.

        Raises:
            TargetError: There is no budget of that name (the message names the nearest), or a value is no number.
        """
        if isinstance(text, Target):
            return text
        if not isinstance(text, str):
            raise TargetError(
                f'The target is a {type(text).__name__}, not text such as "macs=0.5"; it comes after the model and the inputs.'
            )
        with_point = _DECIMAL_COMMA.sub(r"\1.\2", text)
        if with_point != text:
            raise TargetError(f"The target '{text}' has a decimal comma; write \"{with_point}\".")
        values: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in BUDGETS:
                known = f"; write for example macs=0.5; there are {', '.join(BUDGETS)}."
                hint = arguments.in_our_words(name) or did_you_mean(name, BUDGETS, known)
                raise TargetError(f"Unknown target '{part.strip()}'{hint}")
            if name in values:
                raise TargetError(f"The target '{text}' names {name} twice; give it once.")
            try:
                share = isinstance(BUDGETS[name], Counted) and value.endswith("%")
                values[name] = float(value[:-1]) / 100 if share else float(value)
            except ValueError:
                raise TargetError(f"'{part.strip()}' gives no number; for example {_example(name)}.") from None
        return cls(**values)

    def given(self, kind: type[B]) -> Iterator[tuple[str, B, float]]:
        """Yield name, budget and value of every requested budget of a kind."""
        for name, budget in BUDGETS.items():
            value = getattr(self, name)
            if value is not None and isinstance(budget, kind):
                yield name, budget, value

    def part(self, share: float) -> Target:
        """The target after a share of the steps: 0.75 of the MACs after the first of two steps to 0.5."""
        return replace(self, **{name: budget.part(value, share) for name, budget, value in self.given(Budget)})

    @property
    def measured(self) -> bool:
        """Whether it has a budget of time."""
        return any(True for _ in self.given(Timed))

    @property
    def counted(self) -> bool:
        """Whether it has a budget of channels, MACs or parameters."""
        return any(True for _ in self.given(Counted))

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return ", ".join(f"{name}={_spelled(value)}" for name, _, value in self.given(Budget))


BUDGETS: Mapping[str, Budget] = {entry.name: entry.metadata["budget"] for entry in fields(Target)}
"""Every budget by name, declared by the fields of `Target`."""


_DECIMAL_COMMA = re.compile(r"(=\s*\d*),(\d+)\s*(?=,|$)")


def meets(budget: str, figure: float, asked: float) -> bool:
    """Whether a figure meets a budget, by its name; see `Budget.meets`."""
    return BUDGETS[budget].meets(figure, asked)


def stated(budget: str, figure: float, asked: float) -> str:
    """Return a figure with four digits, or more if four would not show whether it meets the budget."""
    texts = (f"{figure:.{digits}g}" for digits in range(4, 17))
    met = meets(budget, figure, asked)
    return next((text for text in texts if meets(budget, float(text), asked) == met), repr(figure))


def _example(name: str) -> str:
    return f"{name}={BUDGETS[name].example:g}"


arguments.BUDGETS.update((name, _example(name)) for name in BUDGETS)


def _spelled(value: float) -> str:
    """The shortest text of a number that `float` reads back."""
    return str(int(value)) if value == int(value) else repr(float(value))
