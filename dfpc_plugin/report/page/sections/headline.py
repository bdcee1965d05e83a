"""The head of the page: which model, what was asked, what came of it in a few large figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.sections.accuracy import evaluations_of
from dfpc_plugin.report.page.sections.figures import in_runtime
from dfpc_plugin.report.page.wording import milliseconds, percent, short, signed, significant
from dfpc_plugin.selection import stated


@dataclass(frozen=True)
class Headline:
    """A large figure; `left` is the share that remains, for a bar, None where that says nothing."""

    label: str
    value: str
    detail: str
    left: float | None = None


def headline(record: Field) -> Mapping[str, Any]:
    """Return the model's name, the target, and what was reached."""
    model, prune = record["model"], record["prune"]
    reached = [(name, value.number(), prune["target"][name].number()) for name, value in prune["reached"].entries()]
    options = [f"{name}={value.anything()}" for name, value in model["options"].entries()]
    weights = model["weights"].text() or ("pretrained weights" if model["pretrained"].value is True else "")
    accuracy = _accuracy(record) or _score(prune)
    figures = (_counted(prune, "macs", "MACs"), _counted(prune, "parameters", "Parameters"), _time(prune), accuracy)
    return {
        "name": model["name"].text(),
        "subtitle": ", ".join([*options, *([weights] if weights else [])]),
        "asked": record["asked"].text(),
        "reached": ", ".join(_stated(name, value, asked) for name, value, asked in reached if value is not None),
        "figures": [figure for figure in figures if figure is not None],
    }


def _stated(budget: str, figure: float, asked: float | None) -> str:
    """A budget and what it came to, in enough digits to see whether it was kept."""
    return f"{budget}={significant(figure, 4) if asked is None else stated(budget, figure, asked)}"


def _counted(prune: Field, key: str, label: str) -> Headline | None:
    before, after = prune["before"][key].number(), prune["after"][key].number()
    if not before or after is None:
        return None
    return Headline(label, short(after), f"{percent(after / before)} of {short(before)}", after / before)


def _time(prune: Field) -> Headline | None:
    before, after = prune["before"]["latency_ms"].number(), prune["after"]["latency_ms"].number()
    runtime = in_runtime(prune)
    if not before or not after or runtime is None:
        return None
    speedup = prune["speedup"].number() or before / after
    factor = f"{significant(speedup)}\N{MULTIPLICATION SIGN}"
    return Headline("Speed-up", factor, f"{milliseconds(after)} after {milliseconds(before)}{runtime}")


def _accuracy(record: Field) -> Headline | None:
    """Top-1 at the last stage, and at the first on the same data; an int8 file is not the model of the other figures."""
    known = [own for own in evaluations_of(record) if own.top1 is not None and own.stage != "int8"]
    if not known:
        return None
    last = known[-1]
    first = next(evaluation for evaluation in known if evaluation.data == last.data)
    assert first.top1 is not None and last.top1 is not None
    detail = last.stage
    if first is not last:
        detail = f"{first.top1:.2f}% {first.stage or 'at first'}, {signed(last.top1 - first.top1)} points"
    return Headline("Top-1 accuracy", f"{last.top1:.2f}%", detail)


def _score(prune: Field) -> Headline | None:
    before, after = prune["before"]["score"].number(), prune["after"]["score"].number()
    if before is None or after is None:
        return None
    return Headline("Score", significant(after, 4), f"{significant(before, 4)} before")
