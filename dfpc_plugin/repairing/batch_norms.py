"""The statistics of batch norms: how far images are from them, and how they change in a pruned model.

They are updated by comparing noise in the pruned model and in the unpruned one, or re-estimated on images.

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

import contextlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfpc_plugin.families import run_forward
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.kept import Kept

_BATCH_NORM = inspect.signature(F.batch_norm)
_Norm = nn.modules.batchnorm._BatchNorm
_Affine = tuple[Tensor | None, Tensor | None]
"""The weight and the bias of a batch norm."""
_POSITIONS = 32
"""Fewest values of a channel from which its moments are taken."""
_LEAST, _MOST = 0.02, 10.0
"""Limits of the factor by which a variance changes, so that channels that hardly vary are not amplified."""


@dataclass(frozen=True, eq=False)
class NormInput:
    """The input of a batch norm in evaluation mode.

    Attributes:
        data: `(images, channels, ...)`.
        mean: The stored mean, `(channels,)`.
        variance: The stored variance plus the norm's eps.
    """

    data: Tensor
    mean: Tensor
    variance: Tensor


def norm_arguments(args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call of `F.batch_norm`, by name and in order."""
    given = _BATCH_NORM.bind(*args, **kwargs)
    given.apply_defaults()
    return given.arguments


class _Norms(TorchFunctionMode):
    """Passes the batch norms of a forward that are in evaluation mode, and have statistics, through `norm`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, or `norm` instead of a batch norm."""
        if func is F.batch_norm:
            data, mean, variance, weight, bias, training, _, eps = norm_arguments(args, kwargs or {}).values()
            if mean is not None and not training:
                return self.norm(data, mean, variance, (weight, bias), eps)
        return func(*args, **(kwargs or {}))

    def norm(self, data: Tensor, mean: Tensor, variance: Tensor, affine: _Affine, eps: float) -> Tensor:
        """Normalise `data` as in evaluation mode; for subclasses."""
        return F.batch_norm(data, mean, variance, *affine, False, 0.0, eps)


class NormInputs(_Norms):
    """Collects, in `found`, the inputs of the batch norms of a forward, in order."""

    def __init__(self) -> None:
        """Start with an empty list."""
        super().__init__()
        self.found: list[NormInput] = []

    def norm(self, data: Tensor, mean: Tensor, variance: Tensor, affine: _Affine, eps: float) -> Tensor:
        """Collect the input."""
        self.found.append(NormInput(data, mean.detach(), variance.detach() + eps))
        return super().norm(data, mean, variance, affine, eps)


class ImposedStatistics(_Norms):
    """Lets every batch norm normalise by the statistics of the batch instead of those it has stored.

    Every channel of its output then has the mean and the variance that it had on training data.
    """

    def norm(self, data: Tensor, mean: Tensor, variance: Tensor, affine: _Affine, eps: float) -> Tensor:
        """Normalise as in training, unless there is only one value per channel."""
        if data.numel() <= data.shape[1]:
            return super().norm(data, mean, variance, affine, eps)
        return F.batch_norm(data, None, None, *affine, True, 0.0, eps)


def divergence(found: NormInput) -> Tensor:
    """How far the statistics of some data are from the stored ones, in nats per channel.

    The Kullback-Leibler divergence, averaged over channels, of the normal distribution with the data's mean m and
    variance v from the one with the stored M and V: ((m - M)^2 / V + v / V - 1 - log(v / V)) / 2.
    """
    axes = [axis for axis in range(found.data.dim()) if axis != 1]
    variance, mean = torch.var_mean(found.data.float(), axes)
    ratio = variance / found.variance
    offset = (mean - found.mean).square() / found.variance
    return (offset + ratio - 1 - torch.log(ratio.clamp_min(1e-6))).mean() / 2


def norms_of(model: nn.Module) -> list[_Norm]:
    """The batch norms of a model that have stored statistics."""
    return [m for m in model.modules() if isinstance(m, _Norm) and m.running_mean is not None]


@contextlib.contextmanager
def reestimated(
    model: nn.Module, batches: Sequence[ExampleInputs], forward_fn: ForwardFunction | None
) -> Iterator[list[bool]]:
    """Replace stored means and variances, in place, by averages over `batches`.

    Yields a list with one False; set it to True to keep the new statistics. Otherwise the old ones are restored. The
    model has to be in evaluation mode; nothing else of it changes.
    """
    norms, keep = norms_of(model), [False]
    stored = [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
    before = [tensor.clone() for tensor in stored]
    state = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)
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
            for tensor, value in zip(stored, before, strict=True):
                tensor.copy_(value)


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

    def norm(self, data: Tensor, mean: Tensor, variance: Tensor, affine: _Affine, eps: float) -> Tensor:
        """Collect the moments of a batch norm's input, unless it has too few values."""
        count = data.numel() // data.shape[1]
        if count < _POSITIONS:
            return super().norm(data, mean, variance, affine, eps)
        exact = data if data.dtype == torch.float64 else data.float()
        found = exact.new_zeros(2, data.shape[1])  # with a momentum of one, these become the moments of the batch
        weight, bias = (None if own is None else own.to(exact) for own in affine)
        result = F.batch_norm(exact, found[0], found[1], weight, bias, True, 1.0, eps)
        moments = found.double()
        self._found[id(mean), id(variance)].append(Moments(moments[0], moments[1] * ((count - 1) / count)))
        return result.to(data)

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

    def norm(self, data: Tensor, mean: Tensor, variance: Tensor, affine: _Affine, eps: float) -> Tensor:
        """Normalise by statistics that fit noise, if they are known."""
        expected = self._expected.get((id(mean), id(variance)))
        if expected is None:
            return super().norm(data, mean, variance, affine, eps)
        return F.batch_norm(data, *expected, *affine, False, 0.0, eps)


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
