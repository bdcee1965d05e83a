"""Pause Python's garbage collector during passes that create many objects."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from dfpc_plugin.interrupts import undone


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Disable the garbage collector, which would walk all objects of the process again and again."""
    if not gc.isenabled():
        yield
        return
    with undone(gc.enable):
        gc.disable()
        yield
