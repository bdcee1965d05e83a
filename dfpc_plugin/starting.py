"""Imported first: Ctrl-C while a command imports torch, which takes seconds, ends it without a traceback."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C has ended."""


def _is_command() -> bool:
    """Whether this process is `dfpc` or `python -m dfpc_plugin`, not a program that imports the package."""
    words = sys.orig_argv
    by_module = any(pair in (("-m", "dfpc_plugin"), ("-m", "dfpc_plugin.cli")) for pair in itertools.pairwise(words))
    return by_module or Path(sys.argv[0] if sys.argv else "").stem == "dfpc"


def _end(number: int, frame: FrameType | None) -> None:
    """Exit at once, as nothing has to be cleaned up yet."""
    os._exit(INTERRUPTED)


def begun() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


if (
    _is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _end)
