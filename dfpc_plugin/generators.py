"""Keep the random generators of the process, which all threads share."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch

from dfpc_plugin.interrupts import interrupts_held, undone

__all__ = ["generators_kept", "seed_torch"]

_lock = threading.Lock()
_inside: dict[int, int] = {}
"""Blocks that threads are in, by thread."""
_first: list[Callable[[], None]] = []
"""What puts the generators back as they were before any thread was in a block."""


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put the generators of Python, NumPy, torch and its CUDA devices back as they were, whatever is drawn or seeded in between.

    Where threads are in such blocks at the same time, each draws from what others leave; when the last one is done, all is
    as it was before the first.
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
            if not depth:  # Ctrl-C came before anything was entered
                return
            back()
            if depth > 1:
                _inside[thread] = depth - 1
            elif _inside.pop(thread, None) is not None and not _inside:
                for first in _first:
                    first()
                _first.clear()

    with undone(restore):
        enter()  # in here, as a Ctrl-C that has waited is raised at its end
        yield


def seed_torch(seed: int) -> None:
    """Seed torch's generators, those of CUDA devices too if CUDA is in use.

    `torch.manual_seed` would also seed CUDA devices that are used for the first time later, when it is too late to put them back.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _restorer() -> Callable[[], None]:
    """Return a function that gives the generators the states that they have now."""
    python, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)

    return restore
