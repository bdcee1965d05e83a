"""Restore temporary changes, even if Ctrl-C is pressed meanwhile, such as a pause of the garbage collector."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block; only the main thread receives it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    waiting: list[tuple[Any, ...]] = []
    handler = signal.signal(signal.SIGINT, lambda *signalled: waiting.append(signalled))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting and callable(handler):
            handler(*waiting[-1])


@contextlib.contextmanager
def undone(restore: Callable[[], None]) -> Iterator[None]:
    """Call `restore`, which may run twice, at the end of the block, completely, whatever happens."""
    done = False

    def finish() -> None:
        nonlocal done
        with interrupts_held():
            restore()
            done = True

    try:
        try:
            yield
        finally:
            finish()
    finally:
        if not done:  # Ctrl-C came between the block's end and `finish`
            finish()


@contextlib.contextmanager
def entered(mode: AbstractContextManager[T]) -> Iterator[T]:
    """Enter and leave a PyTorch mode without an interrupt inside its code, which would leave it on PyTorch's stack."""
    inside: list[AbstractContextManager[T]] = []

    def leave() -> None:
        if inside:
            inside.pop().__exit__(None, None, None)

    with undone(leave):
        with interrupts_held():
            value = mode.__enter__()
            inside.append(mode)
        yield value


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Disable the garbage collector, which would walk all objects of the process again and again."""
    if not gc.isenabled():
        yield
        return
    with undone(gc.enable):
        gc.disable()
        yield
