"""Update the statistics of batch norms in a pruned model, by comparing noise in it and in the unpruned model.

Removing channels reduces the variance of a layer's outputs. In deep networks the loss grows from layer to layer, as the
branches of a residual stream are less correlated. This cannot be computed from single layers. So the same noise runs
through both models, while every batch norm normalises by the batch's statistics, so that its output has the moments it
has on data (`ImposedStatistics`). Let the inputs of a norm have mean m and variance v in the unpruned model, and m' and
v' in the pruned one, and let M and V be its stored statistics. The updated statistics are

    V v' / v,    M + m' - m.

Noise is not data, and m and v are not M and V; but most of the difference is the same in both models, and cancels.
Norms that do not call `F.batch_norm`, such as frozen ones, are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.kept import Kept
from dfpc_plugin.repairing.statistics import ImposedStatistics, batch_norm_arguments

_POSITIONS = 32
"""Fewest values of a channel from which its moments are taken."""
_LEAST, _MOST = 0.02, 10.0
"""Limits of the factor by which a variance changes, so that channels that hardly vary are not amplified."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of a batch norm's inputs, `(channels,)` in float64."""

    mean: Tensor
    variance: Tensor

    def rows(self, kept: Tensor | None) -> Moments:
        """The moments of kept channels; None for all."""
        own = slice(None) if kept is None else kept.to(self.mean.device)
        return Moments(self.mean[own], self.variance[own])

    @property
    def finite(self) -> bool:
        """Whether all of them are finite."""
        return bool(torch.isfinite(self.mean).all() and torch.isfinite(self.variance).all())


Norms = dict[tuple[str, str], Moments]
"""The moments of each batch norm's inputs, by the names of the buffers for its mean and its variance."""


class MomentsSeen(ImposedStatistics):
    """An `ImposedStatistics` that collects the moments of the batch norms' inputs."""

    def __init__(self) -> None:
        """Start without moments."""
        super().__init__()
        self._found: dict[tuple[int, int], list[Moments]] = defaultdict(list)

    def reached(self, data: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Collect the moments of a batch norm's input, unless it has too few values."""
        if data.numel() >= _POSITIONS * data.shape[1]:
            exact = data if data.dtype == torch.float64 else data.float()
            found = torch.var_mean(exact, [axis for axis in range(data.dim()) if axis != 1], correction=0)
            self._found[id(mean), id(variance)].append(Moments(found[1].double(), found[0].double()))

    def by_name(self, model: nn.Module) -> Norms:
        """The moments of `model`'s batch norms, where finite; averaged over the calls of a norm."""
        names = {id(buffer): name for name, buffer in model.named_buffers()}
        return {
            (names[mean], names[variance]): Moments(
                torch.stack([own.mean for own in found]).mean(0), torch.stack([own.variance for own in found]).mean(0)
            )
            for (mean, variance), found in self._found.items()
            if mean in names and variance in names and all(own.finite for own in found)
        }


def moments_of(model: nn.Module, noise: ExampleInputs, forward_fn: ForwardFunction | None) -> Norms:
    """Run noise through a model in evaluation mode, and return the moments of its batch norms."""
    with torch.no_grad(), MomentsSeen() as seen:
        run_forward(model, noise, forward_fn)
    return seen.by_name(model)


class NoiseAsData(ImposedStatistics):
    """Lets the batch norms of a pruned model normalise noise as they would normalise data.

    Noise has other moments than data, so the stored statistics do not fit it. Let m and v be the moments of noise in
    the unpruned model, M and V the statistics stored there, and M' and V' those stored in the pruned model. Then noise
    is normalised by m + M' - M and v V' / V. This is the inverse of `update_norms`.
    """

    def __init__(self, model: nn.Module, original: nn.Module, before: Norms, kept: Kept) -> None:
        """Prepare for forwards of `model`, from the moments of `original`; see `update_norms`."""
        super().__init__()
        unpruned, pruned = dict(original.named_buffers()), dict(model.named_buffers())
        self._expected: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for names, given in before.items():
            mask = kept.along(names[1], 0)
            then, known = (own.rows(mask) for own in (given, Moments(*(unpruned[name].double() for name in names))))
            mean, variance = (pruned[name] for name in names)
            share = variance.double() / known.variance.clamp_min(1e-30)
            now = then.mean + mean.double() - known.mean, then.variance * share
            self._expected[id(mean), id(variance)] = (now[0].to(mean), now[1].to(variance))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`; a batch norm gets statistics that fit noise."""
        if func is F.batch_norm:
            data, mean, variance, *affine, training, _, eps = batch_norm_arguments(*args, **(kwargs or {}))
            expected = self._expected.get((id(mean), id(variance)))
            if expected is not None and not training:
                return func(data, *expected, *affine, False, 0.0, eps)
        return super().__torch_function__(func, types, args, kwargs)


def update_norms(
    model: nn.Module, original: nn.Module, before: Norms, after: Norms, kept: Kept, *, shift: float
) -> None:
    """Update the stored statistics of a pruned model's batch norms in place, by how pruning changed their moments.

    `before` and `after` are the moments in the unpruned and the pruned model on the same noise. `shift` is the weight
    of the new means: one replaces the stored means, zero leaves them.
    """
    unpruned, pruned = dict(original.named_buffers()), dict(model.named_buffers())
    for (means, variances), now in after.items():
        if (means, variances) not in before:
            continue
        mask = kept.along(variances, 0)
        then = before[means, variances].rows(mask)
        known = Moments(unpruned[means].double(), unpruned[variances].double()).rows(mask)
        told = then.variance > 0  # a channel that noise does not change tells nothing
        share = (now.variance / torch.where(told, then.variance, 1.0)).clamp(_LEAST, _MOST)
        pruned[variances].copy_(torch.where(told, known.variance * share, pruned[variances].double()))
        if shift:
            pruned[means].lerp_((known.mean + now.mean - then.mean).to(pruned[means]), shift)
