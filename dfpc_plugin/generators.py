"""Restore the random generators of the process, which all threads share."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from dfpc_plugin.interrupts import interrupts_held, undone

__all__ = ["generators_kept"]

_lock = threading.Lock()
_inside: dict[int, int] = {}
"""Number of blocks that each thread is in."""
_first: list[Callable[[], None]] = []
"""Functions that restore the state from before any thread was in a block."""


@contextlib.contextmanager
def generators_kept(devices: Iterable[int] = ()) -> Iterator[None]:
    """Restore the generators of Python, NumPy and torch at exit.

    If several threads are in such blocks at the same time, each draws from the shared generators; when the last one leaves,
    the state is that from before the first.

    Args:
        devices: Numbers of CUDA devices whose generators are restored, too.
    """
    thread, devices = threading.get_ident(), tuple(devices)
    depth = 0
    back: Callable[[], None]

    def enter() -> None:
        nonlocal back, depth
        with interrupts_held(), _lock:
            back = _restorer(devices)
            if not _inside:
                _first[:] = [back]
            elif devices:
                _first.insert(0, _restorer(devices))
            _inside[thread] = depth = _inside.get(thread, 0) + 1

    def restore() -> None:
        with _lock:
            if not depth:  # Ctrl-C came before `enter`
                return
            back()
            if depth > 1:
                _inside[thread] = depth - 1
            elif _inside.pop(thread, None) is not None and not _inside:
                for first in _first:
                    first()
                _first.clear()

    with undone(restore):
        enter()  # inside the block, as a delayed Ctrl-C is raised at its end
        yield


def _restorer(devices: tuple[int, ...]) -> Callable[[], None]:
    python, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = {device: torch.cuda.get_rng_state(device) for device in devices}

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.set_rng_state(cpu)
        for device, state in cuda.items():
            torch.cuda.set_rng_state(state, device)

    return restore
