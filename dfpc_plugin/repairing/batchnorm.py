"""Re-estimate the stored statistics of batch norms on some inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs

_Norm = nn.modules.batchnorm._BatchNorm


def norms_of(model: nn.Module) -> list[_Norm]:
    """The batch norms of a model that have stored statistics."""
    return [m for m in model.modules() if isinstance(m, _Norm) and m.running_mean is not None]


def statistics_of(model: nn.Module) -> list[Tensor]:
    """Copies of the stored means and variances of a model's batch norms."""
    return [t.clone() for norm in norms_of(model) for t in (norm.running_mean, norm.running_var) if t is not None]


@contextlib.contextmanager
def reestimated(
    model: nn.Module, batches: Sequence[ExampleInputs], forward_fn: ForwardFunction | None
) -> Iterator[list[bool]]:
    """Replace stored means and variances, in place, by averages over `batches`.

    Yields a list with one False; set it to True to keep the new statistics. Otherwise the old ones are restored. The
    model has to be in evaluation mode; nothing else of it changes.
    """
    norms, before, keep = norms_of(model), statistics_of(model), [False]
    state = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.num_batches_tracked = (
                torch.zeros_like(norm.num_batches_tracked) if norm.num_batches_tracked is not None else None
            )
            norm.momentum = None  # a plain average
            norm.training = True
        with torch.no_grad():
            for batch in batches:
                run_forward(model, batch, forward_fn)
        for norm in norms:
            norm.training = False
        yield keep
    finally:
        for norm, (momentum, counted) in zip(norms, state, strict=True):
            norm.momentum, norm.num_batches_tracked, norm.training = momentum, counted, False
        if not keep[0]:
            own = (t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None)
            for tensor, value in zip(own, before, strict=True):
                tensor.copy_(value)
