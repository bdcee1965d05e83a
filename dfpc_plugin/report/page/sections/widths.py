"""Widths of the layers before and after, and couplings that had to stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import Group, count, grouped, percent, shown


@dataclass(frozen=True)
class Width:
    """One layer, or one coupling, with its outputs before and after; `inputs` in words, empty where they are not known."""

    name: str
    kind: str
    inputs: str
    before: float
    after: float

    @property
    def outputs(self) -> str:
        """Outputs before and after, in words."""
        return _change(self.before, self.after)

    @property
    def left(self) -> float:
        """Share of the outputs that is left, as a percentage."""
        return round(100 * self.after / self.before, 2)


def widths(record: Field) -> Mapping[str, Any] | None:
    """Return rows in groups: of layers if the record has them, else of couplings."""
    layers = _layers(record["layers"])
    rows = layers or _couplings(record["prune"]["couplings"])
    if not rows:
        return None
    groups = grouped((row.name, row) for row in rows)
    return {
        "of": "layer" if layers else "coupling",
        "has_inputs": any(row.inputs for row in rows),
        "groups": [_summary(group) for group in groups],
        "count": len(rows),
        "cut": sum(row.after < row.before for row in rows),
    }


def _layers(layers: Field) -> list[Width]:
    rows = []
    for layer in layers.items():
        before, after = layer["before"].numbers(), layer["after"].numbers()
        if len(before) == len(after) == 2 and before[1] and after[1] is not None:
            inputs = "" if before[0] is None or after[0] is None else _change(before[0], after[0])
            rows.append(Width(layer["path"].text(), layer["kind"].text(), inputs, before[1], after[1]))
    return rows


def _couplings(couplings: Field) -> list[Width]:
    rows = []
    for coupling in couplings.items():
        before, after = coupling["before"].number(), coupling["after"].number()
        layers = coupling["layers"].texts()
        if before and after is not None:
            kind = f"and {len(layers) - 1} more" if len(layers) > 1 else ""
            rows.append(Width(coupling["name"].text(), kind, "", before, after))
    return rows


def _summary(group: Group[Width]) -> dict[str, Any]:
    before, after = sum(row.before for row in group.rows), sum(row.after for row in group.rows)
    return {
        "name": group.name,
        "rows": group.rows,
        "outputs": _change(before, after),
        "left": round(100 * after / before, 2),
        "share": percent(after / before),
    }


def _change(before: float, after: float) -> str:
    return count(before) if before == after else f"{count(before)} → {count(after)}"


def protected(record: Field) -> Mapping[str, Any] | None:
    """Return the couplings by the reason for which they stay."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for entry in record["protected"].items():
        width, layers = entry["width"].number(), entry["layers"].texts()
        name = entry["name"].text()
        coupling = {"name": name, "width": shown(width, count), "others": [layer for layer in layers if layer != name]}
        reason = entry["reason"].text() or "For a reason that was not recorded"
        by_reason.setdefault(reason[:1].upper() + reason[1:], []).append(coupling)
    if not by_reason:
        return None
    return {"reasons": list(by_reason.items()), "count": sum(map(len, by_reason.values()))}
