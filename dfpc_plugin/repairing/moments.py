"""Second moments of what reaches every layer of a model, on some inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfpc_plugin.flow import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.calls import LayerCall
from dfpc_plugin.repairing.lockstep import settlements

__all__ = ["LayerMoments", "layer_moments"]

_WIDEST = 6144
_ENTRIES = 2**25


@dataclass(eq=False)
class LayerMoments:
    """One layer, and the covariance of its inputs.

    Attributes:
        matrix: Its weight, `(groups, outputs, entries of a row)`, float64.
        taps: How many entries of a row belong to one input channel.
        covariance: `(groups, entries, entries)`, float64; of a layer too wide for that, `(groups, entries)` variances.
    """

    matrix: Tensor
    taps: int
    covariance: Tensor

    @property
    def full(self) -> bool:
        """Whether entries are compared with each other."""
        return self.covariance.dim() == 3


def layer_moments(
    model: nn.Module,
    batches: Sequence[ExampleInputs],
    forward_fn: ForwardFunction | None,
    *,
    rows: int,
    seed: int,
) -> dict[str, list[LayerMoments]]:
    """Run `model`, in evaluation mode, on `batches`, and return the moments of every layer's inputs by the layer's name.

    A layer that holds several matrices, such as attention's three projections in one weight, has as many entries. Of one
    that is called several times, the first call counts.

    Args:
        model: Any model.
        batches: What to call it with.
        forward_fn: As everywhere.
        rows: How many rows of a layer's inputs to sample, at most.
        seed: Chooses them.
    """
    sums: dict[tuple[str, int | None], _Sums] = {}
    for number, batch in enumerate(batches):
        seen = set()
        for step, settlement in enumerate(settlements(model, batch, forward_fn)):
            call = settlement.call
            key = (call.name, call.rows_of.start)
            if key in seen:
                continue
            seen.add(key)
            generator = torch.Generator().manual_seed(seed + 7919 * number + step)
            entries = call.matrix.shape[0] * call.matrix.shape[2]
            count = max(64, min(rows // len(batches), _ENTRIES // entries))
            total = call.positions(settlement.output)
            positions = torch.randperm(total, generator=generator)[:count].to(settlement.output.device)
            sums.setdefault(key, _Sums(call)).add(call.rows(positions))
    result: dict[str, list[LayerMoments]] = {}
    for (name, _), own in sums.items():
        result.setdefault(name, []).append(own.moments())
    return result


class _Sums:
    """Sums over the rows of one layer's inputs."""

    def __init__(self, call: LayerCall) -> None:
        self._matrix, self._taps = call.matrix, call.taps()
        self._full = self._matrix.shape[2] <= _WIDEST
        self._count = 0
        self._sums = (torch.zeros(()), torch.zeros(()))

    def add(self, rows: Tensor) -> None:
        """Count `(n, groups, entries)` in."""
        rows = rows.transpose(0, 1)
        if not self._count:
            self._center = rows.mean(1, keepdim=True)
        rows = rows - self._center
        product = rows.mT @ rows if self._full else rows.square().sum(1)
        sums = (rows.sum(1).double(), product.double())
        self._sums = (self._sums[0] + sums[0], self._sums[1] + sums[1]) if self._count else sums
        self._count += rows.shape[1]

    def moments(self) -> LayerMoments:
        """What has been counted."""
        mean, product = (total / self._count for total in self._sums)
        square = mean[:, :, None] * mean[:, None] if self._full else mean.square()
        return LayerMoments(self._matrix, self._taps, product - square)
