"""Moments of the inputs of every layer of a model: on images, or on noise for all that needs no data."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.errors import RepairError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.batch_norms import MomentsSeen, Norms
from dfpc_plugin.repairing.calls import LayerCall
from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.lockstep import Key, settlements, survey
from dfpc_plugin.repairing.noise import on_noise
from dfpc_plugin.repairing.settings import RepairOptions

_WIDEST = 6144
_ENTRIES = 2**25
_ROWS = 2**12
"""Largest number of sampled positions of a layer's inputs on noise. Neighbours are similar; 2**14 was no better."""


@dataclass(eq=False)
class LayerMoments:
    """A layer's weights and the covariance of its input channels.

    A kernel sees t entries of every channel. Their covariance is approximated by the Kronecker product S x T, where S
    is the covariance of the channels at one tap and T that of the taps, with a mean diagonal of one. This takes one
    number per pair of channels instead of t^2. With T = L L', the squared output W (S x T) W' equals that of a layer
    with weights W L that sees one entry per channel.

    Attributes:
        matrix: W L, `(groups, outputs * t, channels of a group)`, float64.
        covariance: S, `(groups, channels, channels)`, float64; for very wide layers only variances, `(groups,
            channels)`.
        mean: Mean of every input channel, `(groups, channels)`, without padding; zero if the covariance is around zero.
        samples: Number of different positions that these were measured on.
        start: The first row of its weight, in a layer that holds several matrices in one weight.
    """

    matrix: Tensor
    covariance: Tensor
    mean: Tensor
    samples: int
    start: int | None = None


def layer_moments(
    model: nn.Module,
    batches: Batches,
    forward_fn: ForwardFunction | None,
    *,
    rows: int,
    seed: int,
    within: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    example_inputs: ExampleInputs | None = None,
) -> dict[str, list[LayerMoments]]:
    """Return the moments of every layer's inputs, by the layer's name, while `model` runs on `batches`.

    Moments are around the mean if the layer can take up a constant, else around zero. A layer that holds several
    matrices, such as attention's three projections in one weight, has one entry for each. If a layer is called several
    times, the first call counts. Depthwise convolutions are left out. At most `rows` rows of a layer's inputs are
    sampled, and fewer for a kernel of several taps, as each row then shows every channel several times. `within` makes
    a context for every forward. The layers are surveyed on `example_inputs`, by default on the first input alone.
    Raises RepairError if inputs of a layer, or their squares, are not finite.
    """
    steps = survey(model, batches.one if example_inputs is None else example_inputs, forward_fn)
    sums: dict[Key, tuple[str, _Sums]] = {}
    for number, batch in enumerate(batches.parts):
        seen = set()
        for position, (step, settlement) in enumerate(
            zip(steps, settlements(model, batch, forward_fn, within), strict=True)
        ):
            call = settlement.call
            if step.key in seen or _is_depthwise(call):
                continue
            seen.add(step.key)
            generator = torch.Generator().manual_seed(seed + 7919 * number + position)
            entries = call.matrix.shape[0] * call.matrix.shape[2]
            count = max(64, min(rows // (call.taps() * len(batches.parts)), _ENTRIES // entries))
            chosen = torch.randperm(call.positions(settlement.output), generator=generator)[:count]
            own = sums.setdefault(step.key, (step.name, _Sums(call, step.takes_constant)))[1]
            own.add(call.rows(chosen.to(settlement.output.device)), call.input.movedim(call.channel_axis, 0))
    result: dict[str, list[LayerMoments]] = {}
    for name, own in sums.values():
        if not own.finite:
            raise RepairError(
                f"'{name}' is given values that are not finite, or whose squares are not, so that its channels cannot be "
                f"compared. On noise, that may be due to the noise: give images of your own to calibrate. Or rank by "
                f"DFPCImportance(), which runs nothing, and repair by mean."
            )
        result.setdefault(name, []).append(own.moments(rows))
    return result


def _is_depthwise(call: LayerCall) -> bool:
    """Whether a layer is depthwise: it mixes no channels but passes them on to others."""
    return call.groups > 1 and call.groups == call.input.shape[call.channel_axis]


class _Sums:
    """Sums over the rows of one layer's inputs."""

    def __init__(self, call: LayerCall, centered: bool) -> None:
        self._centered, self._start = centered, call.rows_of.start
        self._matrix, self._taps = call.matrix, call.taps()
        self._full = self._matrix.shape[2] // self._taps <= _WIDEST
        self._count = self._positions = 0
        self._sums: list[Tensor] = []

    def add(self, rows: Tensor, channels: Tensor) -> None:
        """Add rows, `(n, groups, entries)`, of the inputs `channels`, `(channels, ...)`."""
        entries = rows.unflatten(2, (-1, self._taps)).permute(1, 3, 0, 2)  # groups, taps, n, channels
        if not self._count:
            self._center = entries.mean((1, 2), keepdim=True) if self._centered else entries.new_zeros(())
        entries = entries - self._center
        together, apart = entries.flatten(1, 2), entries.movedim(1, 0).flatten(1)
        product = (together.mT @ together if self._full else together.square().sum(1)) / self._taps
        places = apart @ apart.mT
        positions = channels[0].numel()
        total = channels.to(rows).unsqueeze(-1).mean(tuple(range(1, channels.dim() + 1))).double() * positions
        sums = [entries.sum(2).double(), product.double(), places.double(), total.view(len(entries), -1)]
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._count else sums
        self._count += rows.shape[0]
        self._positions += positions

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(total).all()) for total in self._sums)

    def moments(self, most: int) -> LayerMoments:
        """The moments; at most `most` positions count as different."""
        means, product, places = (total / self._count for total in self._sums[:3])
        level = self._sums[3] / self._positions
        if not self._centered:
            means, level = torch.zeros_like(means), torch.zeros_like(level)
        mean = means.mean(1)
        square = mean[:, :, None] * mean[:, None] if self._full else mean.square()
        along = torch.einsum("gic,gc->i", means, mean)
        places = places - (
            along[:, None] + along - mean.square().sum()
        )  # around the mean over all taps, which see different values at borders
        factor = _root(places / places.diagonal().mean().clamp_min(1e-300))
        weights = self._matrix.unflatten(2, (-1, self._taps)) @ factor  # groups, outputs, channels, taps
        samples = min(self._count * self._taps, self._positions, most)
        return LayerMoments(weights.transpose(2, 3).flatten(1, 2), product - square, level, samples, self._start)


def _root(places: Tensor) -> Tensor:
    """L with L L' = `places`, `(taps, taps)`, with eigenvalues of at least 1e-6; the identity if nothing varies."""
    if not bool(places.any()):
        return torch.eye(len(places), dtype=places.dtype, device=places.device)
    values, vectors = torch.linalg.eigh(places)  # unlike Cholesky, also works if taps are fully correlated
    return vectors * values.clamp_min(1e-6).sqrt()


@dataclass(frozen=True, eq=False)
class NoiseStatistics:
    """Statistics of an unpruned model on noise: the same for its ranking, and for every repair of its pruned versions.

    Attributes:
        noise: The noise; None if the example inputs were used in its place, because they are not only images.
        moments: Of every layer's inputs; see `layer_moments`.
        norms: Of the inputs of batch norms.
        note: What the user should know if there was little noise; None else.
    """

    noise: ExampleInputs | None
    moments: Mapping[str, list[LayerMoments]]
    norms: Norms
    note: str | None = None


def statistics_on_noise(
    model: nn.Module, example_inputs: ExampleInputs, forward_fn: ForwardFunction | None, options: RepairOptions
) -> NoiseStatistics | None:
    """Run a model in evaluation mode once, on noise; None if it takes more than images, and raises as `layer_moments`.

    Every batch norm normalises by the statistics of the noise, so that its output has the moments it has on data.
    """

    def measured(noise: ExampleInputs | None) -> NoiseStatistics | None:
        return None if noise is None else _statistics(model, example_inputs, noise, forward_fn, options)

    found, note = on_noise(example_inputs, options.seed, measured)
    return None if found is None else dataclasses.replace(found, note=note)


def noise_statistics(
    model: nn.Module, example_inputs: ExampleInputs, forward_fn: ForwardFunction | None, options: RepairOptions
) -> NoiseStatistics:
    """The same, but on the example inputs if the model takes more than images."""
    found = statistics_on_noise(model, example_inputs, forward_fn, options)
    return found or _statistics(model, example_inputs, None, forward_fn, options)


def _statistics(
    model: nn.Module,
    example_inputs: ExampleInputs,
    noise: ExampleInputs | None,
    forward_fn: ForwardFunction | None,
    options: RepairOptions,
) -> NoiseStatistics:
    seen, batches = MomentsSeen(), Batches([example_inputs if noise is None else noise])
    rows = min(options.rows, _ROWS)
    moments = layer_moments(
        model, batches, forward_fn, rows=rows, seed=options.seed, within=lambda: seen, example_inputs=example_inputs
    )
    return NoiseStatistics(noise, moments, seen.by_name(model))
