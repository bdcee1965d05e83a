"""Couplings that had to stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import count

__all__ = ["protected"]


def protected(record: Field) -> Mapping[str, Any] | None:
    """Return the couplings by the reason for which they stay."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for entry in record["protected"].items():
        width, layers = entry["width"].number(), entry["layers"].texts()
        name = entry["name"].text()
        coupling = {
            "name": name,
            "width": "" if width is None else count(width),
            "others": [layer for layer in layers if layer != name],
        }
        by_reason.setdefault(_sentence(entry["reason"].text()), []).append(coupling)
    if not by_reason:
        return None
    return {"reasons": list(by_reason.items()), "count": sum(map(len, by_reason.values()))}


def _sentence(reason: str) -> str:
    """A reason as a heading."""
    return reason[:1].upper() + reason[1:] if reason else "For a reason that was not recorded"
