"""Where the command line prints."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from rich.console import Console

__all__ = ["Consoles"]

_WIDTH_OF_FILES = 100


def _stdout() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(highlight=False, width=_WIDTH_OF_FILES)  # nothing to fit into: a file or a pipe
    return console


@dataclass(frozen=True)
class Consoles:
    """Results go to `out`, the standard output; messages and progress to `err`, the standard error."""

    out: Console = field(default_factory=_stdout)
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
