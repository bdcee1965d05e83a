"""Time the phases of a piece of work, and report its progress."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

Progress = Callable[[str, float], None]
"""Called with the current phase and the share of it that is done, 0 to 1."""


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
