"""What `zero_cut.masked_statistics` leaves out: statistics that only models of other libraries take over channels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import zero_cut

__all__ = ["masked_statistics"]


def _variance(input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """Variance over entries of channels that are there: those that are not zero everywhere."""
    correction = kwargs.get("correction", 1 if unbiased else 0)
    axes = list(range(input.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    axes = [axis % input.dim() for axis in axes]
    others = [axis for axis in range(input.dim()) if axis not in axes]
    present = (input.ne(0).amax(others, keepdim=True) if others else input.ne(0)).expand(input.shape)
    count = present.sum(axes, keepdim=True).clamp_min(1)
    mean = (input * present).sum(axes, keepdim=True) / count
    result = ((input - mean) * present).square().sum(axes, keepdim=True) / (count - correction).clamp_min(1)
    return result if keepdim else result.squeeze(axes)


@contextlib.contextmanager
def masked_statistics() -> Iterator[None]:
    """As `zero_cut.masked_statistics`, and variances and standard deviations leave out channels of zeros, too."""
    with zero_cut.masked_statistics(), contextlib.ExitStack() as stack:
        for owner in (torch, Tensor):
            stack.enter_context(mock.patch.object(owner, "var", _variance))
            stack.enter_context(mock.patch.object(owner, "std", lambda *a, **k: _variance(*a, **k).sqrt()))
        yield
