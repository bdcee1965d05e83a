"""Whom to tell how far a call is: what the user has asked for, or bars where somebody is looking."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

from dfpc_plugin.progress.displays import Display, NotebookBars, TerminalBars, notebook_shell
from dfpc_plugin.progress.phases import Progress

__all__ = ["SETTING", "shown", "shown_share", "silenced"]

SETTING = "DFPC_PROGRESS"
"""The environment variable that silences all calls; `DFPC_PROGRESS=0`."""
_PATIENCE = 2.5
"""Seconds that a call may take before it shows bars that nobody asked for."""
_OFF = ("", "0", "false", "no", "off")
_drawing = threading.Lock()
_inside: ContextVar[bool] = ContextVar("inside", default=False)


@contextlib.contextmanager
def shown(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """Yield whom to tell what is being done, and the share of it that is done; None for nobody.

    Calls within a call that is shown, or that was silenced, show nothing of their own, and of several threads one draws.

    Args:
        progress: A function to tell. True: show bars at once. False: show nothing. None: show bars once the call has taken
            a few seconds, in a terminal or a notebook, and nowhere else: not in pipes, under pytest or in CI.
    """
    if progress is not None and not isinstance(progress, bool):
        with silenced():
            yield progress
        return
    opener = _opener(os.environ) if progress is None else (_asked if progress else None)
    if opener is None or _inside.get() or not _drawing.acquire(blocking=False):
        with silenced():
            yield None
        return
    bars = _Bars(opener, 0.0 if progress else _PATIENCE)
    try:
        with silenced():
            yield bars.tell
    finally:
        bars.close()
        _drawing.release()


@contextlib.contextmanager
def shown_share(progress: Callable[[float], None] | bool | None, name: str) -> Iterator[Callable[[float], None] | None]:
    """As `shown`, for work of one kind: yields what to call with the share that is done.

    Args:
        progress: As for `shown`; a function is called with the share alone.
        name: What is being done.
    """
    if progress is not None and not isinstance(progress, bool):
        with silenced():
            yield progress
        return
    with shown(progress) as tell:
        if tell is None:
            yield None
        else:
            tell(name, 0.0)
            yield lambda share: tell(name, share)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """What is called within shows nothing of its own."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def _asked() -> Display:
    """Bars that the user has asked for."""
    return NotebookBars() if notebook_shell() is not None else TerminalBars()


def _opener(environment: Mapping[str, str]) -> Callable[[], Display] | None:
    """What opens bars that nobody asked for; None where nobody is looking."""
    silenced = environment.get(SETTING, "1").lower() in _OFF
    if silenced or environment.get("CI", "").lower() not in _OFF or "PYTEST_CURRENT_TEST" in environment:
        return None
    if notebook_shell() is not None:
        return NotebookBars
    return TerminalBars if sys.stderr is not None and sys.stderr.isatty() else None


class _Bars:
    """Bars that open after a while, from a thread of their own, so that work which tells nothing is shown too."""

    def __init__(self, opener: Callable[[], Display], patience: float) -> None:
        self._opener, self._lock = opener, threading.Lock()
        self._shares: dict[str, float] = {}
        self._display: Display | None = None
        self._closed = False
        self._timer = threading.Timer(patience, self._open)
        self._timer.daemon = True
        if patience > 0:
            self._timer.start()
        else:
            self._open()

    def tell(self, name: str, share: float) -> None:
        """Show it, or remember it until there are bars."""
        with self._lock:
            self._shares[name] = share
            if self._display is not None:
                self._display.tell(name, share)

    def close(self) -> None:
        """Take the bars away, or never open them."""
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._display is not None:
                self._display.close()

    def _open(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._display = self._opener()
            for name, share in self._shares.items():
                if share < 1:
                    self._display.tell(name, share)
