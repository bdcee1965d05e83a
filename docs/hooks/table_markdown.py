"""Tables in Markdown, and text that stays as it is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plain(text: str) -> str:
    """Escape what Markdown would read into a formula, outside of back-quoted names."""
    parts = text.split("`")
    for position, part in enumerate(parts):
        if position % 2:
            parts[position] = f"`{part}`"
        else:
            parts[position] = re.sub(r"[\\*_|<>\[\]~^&]", lambda match: f"&#{ord(match[0])};", part)
    return "".join(parts)
