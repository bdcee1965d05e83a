"""Where the command line prints, and the progress of a command on the standard error."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from dfpc_plugin.progress import Progress, TerminalBars, switched_off

_WIDTH_OF_FILES = 10_000
"""Files and pipes have no width to fit into: tables are as wide as they are, and a paragraph is a line."""


def _stdout() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(highlight=False, width=_WIDTH_OF_FILES)
    return console


@dataclass(frozen=True)
class Consoles:
    """Results go to `out`, the standard output; messages and progress to `err`, the standard error."""

    out: Console = field(default_factory=_stdout)
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))


_PATIENCE = 2.0
_EVERY = 15.0


@contextlib.contextmanager
def bars(console: Console, quiet: bool = False) -> Iterator[Progress]:
    """Yield what to call with what is being done and the share of it that is done.

    In a terminal, bars that disappear at the end; elsewhere a line for what takes longer than two seconds, then every quarter
    of a minute, with what it is a part of.
    """
    if quiet or switched_off(os.environ):
        yield lambda name, share: None
    elif console.is_terminal:
        with contextlib.closing(TerminalBars(console)) as shown:
            yield shown.tell
    else:
        yield _Lines(console)


class _Lines:
    """A line now and then, for logs."""

    def __init__(self, console: Console) -> None:
        self._console, self._name, self._due = console, "", 0.0
        self._begun: dict[str, float] = {}  # from the outermost on
        self._silent_until = time.monotonic() + _EVERY

    def __call__(self, name: str, share: float) -> None:
        now = time.monotonic()
        self._note(name, share)
        if name != self._name:  # short work in turns for hours is not to be silent either
            self._name, self._due = name, min(now + _PATIENCE, self._silent_until)
        if now >= self._due and share < 1:
            line = ", ".join(f"{name}: {share:.0%}" for name, share in self._begun.items())
            self._console.print(Text(line), soft_wrap=True)
            self._due = self._silent_until = now + _EVERY

    def _note(self, name: str, share: float) -> None:
        """Note what has begun. What began after it was a part of it, and is over when it goes on."""
        self._begun = dict(itertools.takewhile(lambda entry: entry[0] != name, self._begun.items()))
        if share < 1:
            self._begun[name] = share
