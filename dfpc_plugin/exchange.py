"""Replace functions of other packages temporarily; only some threads see the effect."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from dfpc_plugin.interrupts import interrupts_held, undone


def put(undo: contextlib.ExitStack, owner: Any, name: str, own: Any) -> None:
    """Set an attribute until `undo` is closed."""
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, own)


class _ThreadState(threading.local):
    depth = 0


class Exchange:
    """Blocks in which functions are replaced, from when the first thread enters one until the last leaves.

    A replacement checks `here`, and calls the original where that is false.
    """

    def __init__(self, install: Callable[..., None]) -> None:
        """Prepare; `install(undo, ...)` replaces, at the start of every block, what is not replaced yet."""
        self._install, self._state, self._lock = install, _ThreadState(), threading.Lock()
        self._blocks: set[object] = set()
        self._undo = contextlib.ExitStack()

    @property
    def here(self) -> bool:
        """Whether this thread is in a block."""
        return self._state.depth > 0

    @contextlib.contextmanager
    def block(self, *arguments: Any) -> Iterator[None]:
        """Replace functions; `arguments` are passed to `install`."""
        depth = self._state.depth
        mine = object()

        def leave() -> None:
            self._state.depth = depth
            with self._lock:
                self._blocks.discard(mine)
                if not self._blocks:
                    self._undo.close()

        with undone(leave):
            with interrupts_held(), self._lock:
                self._blocks.add(mine)
                self._install(self._undo, *arguments)
            self._state.depth = depth + 1
            yield
