"""Below every name of the reference that is not in `dfpc_plugin` itself: the line that imports it."""

from __future__ import annotations

import re
from typing import Any

import dfpc_plugin

_ENTRY = re.compile(r"^::: (dfpc_plugin(?:\.\w+)+)\.(\w+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Add the lines; called by MkDocs."""
    return _ENTRY.sub(lambda entry: entry[0] + _line(*entry.groups()), markdown)


def _line(module: str, name: str) -> str:
    return "" if name in dfpc_plugin.__all__ else f"\n\n`from {module} import {name}`"
