"""What batch norms of a pruned model have to expect, from noise that runs through it and through the unpruned one.

Where channels are removed, what remains varies less, and in deep networks less and less from layer to layer, as what adds up in
a residual stream no longer goes together. No layer by itself tells that. So the same noise runs through both models, while
every batch norm is made to find the statistics that it has stored (`ImposedStatistics`), and what reached it is compared: with
the noise's mean m and variance v in the unpruned model and m', v' in the pruned one, a norm that has stored M and V has to
expect about

    V v' / v,    M + m' - m.

Noise is not data, and m and v are not M and V; but most of what is particular about noise is the same in both models, and
cancels. Norms that do not go by `F.batch_norm`, as frozen ones, are not seen.
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

__all__ = ["Moments", "MomentsSeen", "NoiseAsData", "Norms", "moments_of", "update_norms"]

_POSITIONS = 32
"""Numbers of a channel that its variance is read from, at least."""
_LEAST, _MOST = 0.02, 10.0
"""How many times as large a variance may become: what hardly varies is not blown up."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of what reached a batch norm, `(channels,)` in float64."""

    mean: Tensor
    variance: Tensor

    def rows(self, kept: Tensor | None) -> Moments:
        """Those of the channels that are kept; None for all."""
        own = slice(None) if kept is None else kept.to(self.mean.device)
        return Moments(self.mean[own], self.variance[own])

    @property
    def finite(self) -> bool:
        """Whether all of them are numbers."""
        return bool(torch.isfinite(self.mean).all() and torch.isfinite(self.variance).all())


Norms = dict[tuple[str, str], Moments]
"""What reached every batch norm, by the names of the buffers that hold its means and its variances."""


class MomentsSeen(ImposedStatistics):
    """Imposes what batch norms have stored on a forward, and notes what they were given."""

    def __init__(self) -> None:
        """Note nothing yet."""
        super().__init__()
        self._found: dict[tuple[int, int], list[Moments]] = defaultdict(list)

    def reached(self, data: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Note what reached a batch norm, unless it is too little to tell."""
        if data.numel() >= _POSITIONS * data.shape[1]:
            exact = data if data.dtype == torch.float64 else data.float()
            found = torch.var_mean(exact, [axis for axis in range(data.dim()) if axis != 1], correction=0)
            self._found[id(mean), id(variance)].append(Moments(found[1].double(), found[0].double()))

    def by_name(self, model: nn.Module) -> Norms:
        """What the norms of `model` were given, where that is finite; the average of one that was called several times."""
        names = {id(buffer): name for name, buffer in model.named_buffers()}
        return {
            (names[mean], names[variance]): Moments(
                torch.stack([own.mean for own in found]).mean(0), torch.stack([own.variance for own in found]).mean(0)
            )
            for (mean, variance), found in self._found.items()
            if mean in names and variance in names and all(own.finite for own in found)
        }


def moments_of(model: nn.Module, noise: ExampleInputs, forward_fn: ForwardFunction | None) -> Norms:
    """Run noise through a model in evaluation mode, and return what its batch norms were given."""
    with torch.no_grad(), MomentsSeen() as seen:
        run_forward(model, noise, forward_fn)
    return seen.by_name(model)


class NoiseAsData(ImposedStatistics):
    """Lets the batch norms of a pruned model treat noise as they would treat data.

    Plain noise has other moments than data, so the statistics that batch norms have stored do not fit it. Let m and v be the
    moments of noise in the unpruned model, M and V what the norm has stored there, and M' and V' what it has stored in the
    pruned model. Then noise is normalised by m + M' - M and v V' / V. This is the inverse of `update_norms`.
    """

    def __init__(self, model: nn.Module, original: nn.Module, before: Norms, kept: Kept) -> None:
        """Prepare for forwards of `model`, by what norms of `original` were given; see `update_norms`."""
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
    """Update the statistics of the batch norms of a pruned model in place, by how the cut changed the moments of their inputs.

    Args:
        model: The pruned model.
        original: The one it was pruned from.
        before: What norms were given in the unpruned model.
        after: What they were given in the pruned one, by the same noise.
        kept: Which channels are left.
        shift: How much to believe of means: one to replace what the pruned model's norms have stored, zero to leave it.
    """
    unpruned, pruned = dict(original.named_buffers()), dict(model.named_buffers())
    for (means, variances), now in after.items():
        if (means, variances) not in before:
            continue
        mask = kept.along(variances, 0)
        then = before[means, variances].rows(mask)
        known = Moments(unpruned[means].double(), unpruned[variances].double()).rows(mask)
        told = then.variance > 0  # of a channel that noise does not move, nothing is known
        share = (now.variance / torch.where(told, then.variance, 1.0)).clamp(_LEAST, _MOST)
        pruned[variances].copy_(torch.where(told, known.variance * share, pruned[variances].double()))
        if shift:
            pruned[means].lerp_((known.mean + now.mean - then.mean).to(pruned[means]), shift)
