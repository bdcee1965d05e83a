"""Notes, recipe, versions, machine and time."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from dfpc_plugin.record import TOTAL
from dfpc_plugin.report.page.field import Field
from dfpc_plugin.report.page.wording import seconds

_SMALL = 0.005
"""A share of the time that needs no row of its own."""


def notes(record: Field) -> Mapping[str, Any] | None:
    """Return what a user should know and did not ask for, once each."""
    prune = record["prune"]
    found = [*prune["notes"].texts(), *prune["repair"]["notes"].texts()]
    return {"notes": list(dict.fromkeys(found))} if found else None


def recipe(record: Field) -> Mapping[str, Any] | None:
    """Return what of the recipe differs from the defaults, if that is known, and all of it."""
    text, changes = (record[key].text().strip("\n") for key in ("recipe", "changes"))
    return {"text": text, "changes": changes} if text.strip() else None


def provenance(record: Field) -> Mapping[str, Any] | None:
    """Return when, on what, with what and how long."""
    took = [(phase, value.number()) for phase, value in (record["seconds"] or record["prune"]["seconds"]).entries()]
    known = [(phase, value) for phase, value in took if value is not None and phase != TOTAL]
    parts = sum(value for _, value in known)
    total = dict(took).get(TOTAL) or parts
    if total - parts > _SMALL * total:
        known.append(("everything else", total - parts))
    content = {
        "created": _moment(record["created"].text()),
        "seconds": [(phase, seconds(value), round(100 * value / total, 1) if total else 0) for phase, value in known],
        "total": seconds(total) if total else "",
        "versions": [(name, value.anything()) for name, value in record["versions"].entries() if value],
        "machine": [(name, value.anything()) for name, value in record["machine"].entries() if value],
    }
    return content if any(content.values()) else None


def _moment(text: str) -> str:
    """A moment of ISO 8601 as a reader wants it; other texts as they are."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = moment.tzname()
    return moment.strftime("%Y-%m-%d %H:%M") + (f" {zone}" if zone else "")
