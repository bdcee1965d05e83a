"""Restore the random generators of the process, which all threads share."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch

from dfpc_plugin.interrupts import interrupts_held, undone

_lock = threading.Lock()
_inside: dict[int, int] = {}
"""Number of blocks that each thread is in."""
_first: list[Callable[[], None]] = []
"""Functions that restore the state from before any thread was in a block."""


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the generators of Python, NumPy, torch and its CUDA devices at exit.

    If several threads are in such blocks at the same time, each draws from the shared generators; when the last one leaves,
    the state is that from before the first.
    """
    thread, depth = threading.get_ident(), 0
    back: Callable[[], None]

    def enter() -> None:
        nonlocal back, depth
        with interrupts_held(), _lock:
            back = _restorer()
            if not _inside:
                _first[:] = [back]
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


def seed_torch(seed: int) -> None:
    """Seed torch's generators: the CPU's, and those of CUDA devices if CUDA is in use.

    `torch.manual_seed` would also seed CUDA devices that are first used later, when `generators_kept` cannot restore them.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _restorer() -> Callable[[], None]:
    python, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)

    return restore
