"""Progress bars in terminals and in notebooks."""

from __future__ import annotations

import html
import sys
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

_EVERY = 0.2
"""Seconds between two updates; nothing is drawn in between, so that latency measurements are not disturbed."""


class Display(Protocol):
    """Shows progress."""

    def tell(self, name: str, share: float) -> None:
        """Show the share, 0 to 1, of the work `name` that is done."""

    def close(self) -> None:
        """Remove the display."""


class TerminalBars:
    """One bar for each unfinished kind of work, on the standard error; all are removed at the end."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`, by default the standard error."""
        self._bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
            console=console or Console(stderr=True, highlight=False, force_jupyter=False), transient=True,
            auto_refresh=False,
            # Bars must not overwrite other output, and output to a pipe must not go to the standard error.
            redirect_stdout=sys.stdout.isatty(), redirect_stderr=sys.stderr.isatty(),
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._due = 0.0
        self._bars.start()

    def tell(self, name: str, share: float) -> None:
        """Update a bar."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=1.0)
        self._bars.update(self._tasks[name], completed=share, visible=share < 1)
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _EVERY
            self._bars.refresh()

    def close(self) -> None:
        """Remove the bars."""
        self._bars.stop()


class NotebookBars:
    """One bar for each unfinished kind of work, below the cell; all are removed at the end."""

    def __init__(self) -> None:
        """Create an empty display."""
        self._shares: dict[str, float] = {}
        self._start = self._due = time.monotonic()
        self._handle = sys.modules["IPython.display"].display(self._drawn(), raw=True, display_id=True)

    def tell(self, name: str, share: float) -> None:
        """Update a bar."""
        self._shares[name] = share
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _EVERY
            self._handle.update(self._drawn(), raw=True)

    def close(self) -> None:
        """Remove the bars."""
        self._shares.clear()
        self._handle.update(self._drawn(), raw=True)

    def _drawn(self) -> dict[str, str]:
        """The bars as HTML, and as text for front ends without HTML."""
        going = [(name, share) for name, share in self._shares.items() if share < 1]
        seconds = f"{time.monotonic() - self._start:.0f} s"
        bars = "".join(
            f'<div><progress value="{share:.3f}" max="1" style="width:14em;vertical-align:middle"></progress> '
            f"{html.escape(name)} {share:.0%}, {seconds}</div>"
            for name, share in going
        )
        text = ", ".join(f"{name} {share:.0%}" for name, share in going)
        return {"text/html": bars or "<span></span>", "text/plain": text}


def notebook_shell() -> Any:
    """Return IPython's shell in the kernel of a notebook, else None. IPython is not imported for this."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get_ipython is None else get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None
