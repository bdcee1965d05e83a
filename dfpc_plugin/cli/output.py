"""Where a command's results go: files, or the standard output."""

from __future__ import annotations

import sys
from pathlib import Path

from dfpc_plugin.files import require_writable, write_text

__all__ = ["STDOUT", "require_targets", "send"]

STDOUT = "-"


def require_targets(*targets: str | None) -> None:
    """Raise, before any work is done, if one of the files cannot be written.

    Raises:
        OutputError: Names the file.
    """
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
