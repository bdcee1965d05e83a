"""Random numbers that depend on where a run is, and not on how it got there."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["order_of", "seed_item", "seed_step"]

_ORDER, _KEY = 1, 2


def order_of(count: int, *key: int) -> list[int]:
    """The order in which to go through `count` images, as `key` says."""
    generator = torch.Generator().manual_seed(_number(_ORDER, *key))
    return torch.randperm(count, generator=generator).tolist()


def seed_item(*key: int) -> None:
    """Let the generators that transforms draw from start from what `key` says.

    Those of CUDA are left alone: torch.manual_seed would wake them in processes that only read images.
    """
    number = _number(_KEY, *key)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  the one that transforms use
    torch.default_generator.manual_seed(number)


def seed_step(*key: int) -> None:
    """Let all generators, the current CUDA device's too, start from what `key` says."""
    seed_item(*key)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(_number(_KEY, *key))


def _number(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
