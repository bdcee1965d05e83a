"""Keep Python's garbage collector out of passes that make many objects."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from dfpc_plugin.interrupts import undone

__all__ = ["collector_paused"]


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's collector from walking every object of the process again and again while many are made."""
    if not gc.isenabled():
        yield
        return
    with undone(gc.enable):
        gc.disable()
        yield
