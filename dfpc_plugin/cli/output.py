"""Where a command's results go: files, or the standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from dfpc_plugin.files import finite, require_writable, write_text

__all__ = ["STDOUT", "print_json", "print_notes", "require_targets", "send"]

STDOUT = "-"


def require_targets(*targets: str | None) -> None:
    """Raise an OutputError, before any work is done, if one of the files cannot be written."""
    for target in targets:
        if target is not None and target != STDOUT:
            require_writable(Path(target))


def send(target: str, content: str) -> list[str]:
    """Write `content` where it was asked for; return the file's name if it went to a file."""
    if target == STDOUT:
        sys.stdout.write(content)
        sys.stdout.flush()
        return []
    write_text(Path(target), content)
    return [target]


def print_notes(notes: Iterable[str], console: Console) -> None:
    """Print what a user should know and did not ask for, one line for each."""
    for note in notes:
        console.print(Text(note), soft_wrap=True)


def print_json(content: Any, console: Console, indent: int | None = None) -> None:
    """Print figures as JSON, which has no NaN and no infinity: they become null."""
    console.file.write(json.dumps(finite(content), indent=indent, allow_nan=False) + "\n")
