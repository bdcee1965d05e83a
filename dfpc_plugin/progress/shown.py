"""Report progress, time the phases of a piece of work, and choose where it is shown: by the user's function, or by bars."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

from dfpc_plugin.progress.displays import Display, NotebookBars, TerminalBars, notebook_shell

Progress = Callable[[str, float], None]
"""Called with the current phase and the share of it that is done, 0 to 1."""
SETTING = "DFPC_PROGRESS"
"""The environment variable that silences all calls with `DFPC_PROGRESS=0`."""
_PATIENCE = 2.5
"""Seconds before a call shows bars by default."""
_OFF = ("", "0", "false", "no", "off")
_drawing = threading.Lock()
_inside: ContextVar[bool] = ContextVar("inside", default=False)


class Phases:
    """Times phases and reports progress.

    Attributes:
        seconds: Seconds of every phase so far, by name, without those of phases inside it.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        """Report to `progress`, if given."""
        self.seconds: dict[str, float] = {}
        self._inner = 0.0
        self._progress = progress

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time a phase; yields a function to call with the share of it that is done."""
        start, outer, self._inner = time.perf_counter(), self._inner, 0.0
        self._tell(name, 0.0)
        try:
            yield lambda share: self._tell(name, share)
        finally:
            took = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + took - self._inner
            self._inner = outer + took
        self._tell(name, 1.0)

    def _tell(self, name: str, share: float) -> None:
        if self._progress is not None:
            self._progress(name, share)


@contextlib.contextmanager
def shown(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """Yield a function to call with the current phase and the share that is done; None if nothing is shown.

    Calls inside a shown or silenced call show nothing themselves, and only one of several threads draws.

    Args:
        progress: A function to call. True: show bars at once. False: show nothing. None: show bars once the call has
            taken a few seconds, but only in a terminal or a notebook: not in pipes, under pytest or in CI.
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
    """As `shown`, for work of one kind, called `name`: yields a function to call with the share that is done.

    `progress` is as for `shown`, but is called only with the share.
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
    """Calls inside show no progress themselves."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def _asked() -> Display:
    """Open bars that the user has asked for."""
    return NotebookBars() if notebook_shell() is not None else TerminalBars()


def switched_off(environment: Mapping[str, str]) -> bool:
    """Whether `DFPC_PROGRESS=0` is set."""
    return environment.get(SETTING, "1").lower() in _OFF


def _opener(environment: Mapping[str, str]) -> Callable[[], Display] | None:
    """The class of bars to show by default; None if they would not be seen, or are switched off."""
    if (
        switched_off(environment)
        or environment.get("CI", "").lower() not in _OFF
        or "PYTEST_CURRENT_TEST" in environment
    ):
        return None
    if notebook_shell() is not None:
        return NotebookBars
    return TerminalBars if sys.stderr is not None and sys.stderr.isatty() else None


class _Bars:
    """Bars that open after a while in a separate thread, so that work which reports nothing is shown, too."""

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
        """Show progress, or store it until there are bars."""
        with self._lock:
            self._shares[name] = share
            if self._display is not None:
                self._display.tell(name, share)

    def close(self) -> None:
        """Remove the bars, or do not open them."""
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
