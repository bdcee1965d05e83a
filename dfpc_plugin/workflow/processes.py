"""Which of several processes this is, where `accelerate launch` or `torchrun` has started them."""

from __future__ import annotations

import os

__all__ = ["is_main_process"]


def is_main_process() -> bool:
    """Whether this process is the only one, or the first, which prints and writes for all."""
    return os.environ.get("RANK", "0") == "0"
