"""How long each phase of a piece of work took, and how far it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

__all__ = ["Phases", "Progress"]

Progress = Callable[[str, float], None]
"""Told what is being done, and the share of that which is done, 0 to 1."""


class Phases:
    """Times phases and passes progress on.

    Attributes:
        seconds: What every phase took so far, by name, without those inside it.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        """Tell `progress`, if there is one."""
        self.seconds: dict[str, float] = {}
        self._inner = 0.0
        self._progress = progress

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time a phase; yields what to call with the share of it that is done."""
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
