"""Imported before everything else: Ctrl-C while a command imports torch, which takes seconds, ends it without a traceback."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

__all__ = ["INTERRUPTED", "begun"]

INTERRUPTED = 130
"""What a command returns that Ctrl-C has ended."""


def _is_command() -> bool:
    """Whether this process is `dfpc` or `python -m dfpc_plugin`, and not one that imports the package."""
    words = sys.orig_argv
    by_module = any(pair in (("-m", "dfpc_plugin"), ("-m", "dfpc_plugin.cli")) for pair in itertools.pairwise(words))
    return by_module or Path(sys.argv[0] if sys.argv else "").stem == "dfpc"


def _end(number: int, frame: FrameType | None) -> None:
    """Nothing has been begun that would have to be ended well."""
    os._exit(INTERRUPTED)


def begun() -> None:
    """From now on, Ctrl-C is an error as in any program."""
    if signal.getsignal(signal.SIGINT) is _end and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


if (
    _is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _end)
