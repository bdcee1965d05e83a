"""Exact costs by channels: MACs and parameters for any set of removed channels, without building the pruned model.

A layer's MACs, like a parameter's elements, are the combinations of remaining channels along its axes: outputs times inputs of
a linear layer, the sum of such products over the groups of a convolution, channels and heads in attention.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dfpc_plugin.couplings.channels import Axis, Channels
from dfpc_plugin.tracing.axes import squeezed, varying

Factor = tuple[Tensor, tuple[int, ...]]
"""Channels, and the names of the axes of their tensor."""


@dataclass(frozen=True)
class Cost:
    """MACs of one forward of the example inputs, in layers and matrix products, and number of parameters."""

    macs: int
    parameters: int

    def __sub__(self, other: Cost) -> Cost:
        """Return the difference."""
        return Cost(self.macs - other.macs, self.parameters - other.parameters)

    def __add__(self, other: Cost) -> Cost:
        """Return the sum."""
        return Cost(self.macs + other.macs, self.parameters + other.parameters)


@dataclass(frozen=True)
class _Term:
    """A cost of `each` for every combination of remaining channels along its axes.

    Attributes:
        parts: Groups of factors that share axes; the counts of different groups are multiplied.
        each: The cost of one combination.
    """

    parts: tuple[tuple[Factor, ...], ...]
    each: Cost

    def cost(self, alive: Tensor) -> Cost:
        """The cost of what remains; `alive` is one for remaining channels and zero for others."""
        count = 1
        for factors in self.parts:
            count *= _combinations(factors, alive)
        return Cost(self.each.macs * count, self.each.parameters * count)


class CostModel:
    """Exact costs of a model after removing channels; `full` is the cost with all channels."""

    def __init__(self, channels: Channels) -> None:
        """Read how costs depend on channels; whether channels are already pruned is ignored."""
        costs: dict[tuple[object, ...], tuple[tuple[Factor, ...], Cost]] = {}
        for factors, each in [*_of_layers(channels), *_of_parameters(channels)]:
            key = tuple((names, tuple(which.reshape(-1).tolist())) for which, names in factors)
            known = costs[key][1] if key in costs else Cost(0, 0)
            costs[key] = factors, known + each
        self._terms = [_Term(tuple(_parts(factors)), each) for factors, each in costs.values()]
        self.full = self.cost(torch.zeros_like(channels.removed))

    @cached_property
    def _by_channel(self) -> Mapping[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for number, term in enumerate(self._terms):
            held = [which.reshape(-1) for part in term.parts for which, _ in part]
            for channel in torch.unique(torch.cat(held)).tolist() if held else ():
                found[channel].append(number)
        return found

    def cost(self, removed: Tensor) -> Cost:
        """Return the cost without the `removed` channels, `(channels,)` of bool."""
        return _total(self._terms, (~removed).double())

    def saving(self, removed: Tensor, channels: Tensor) -> Cost:
        """Return the saving of removing `channels` (their numbers) when the `removed` ones are removed already."""
        touched = [self._terms[number] for number in self.neighbours(channels)]
        alive = (~removed).double()
        before = _total(touched, alive)
        alive[channels] = 0
        return before - _total(touched, alive)

    def neighbours(self, channels: Tensor) -> frozenset[int]:
        """Return the terms that depend on some channels; channels without common terms do not affect each other's savings."""
        return frozenset(number for channel in channels.tolist() for number in self._by_channel.get(channel, ()))


def _total(terms: Iterable[_Term], alive: Tensor) -> Cost:
    return sum((term.cost(alive) for term in terms), Cost(0, 0))


def _of_layers(channels: Channels) -> Iterable[tuple[tuple[Factor, ...], Cost]]:
    for layer in channels.layers:
        factors = tuple(_factor(channels.numbers, labels, names) for labels, names in layer.work.factors)
        sizes = {name: n for which, names in factors for name, n in zip(names, which.shape, strict=True)}
        yield factors, Cost(layer.macs // torch.Size(sizes.values()).numel(), 0)


def _factor(numbers: Tensor, labels: Tensor, names: Sequence[int]) -> Factor:
    """Channels of labels, on the axes along which they vary."""
    axes = varying(labels)
    which = numbers[squeezed(labels)].reshape([labels.size(axis) for axis in axes])
    return which, tuple(names[axis] for axis in axes)


def _of_parameters(channels: Channels) -> Iterable[tuple[tuple[Factor, ...], Cost]]:
    """Elements of every parameter, per combination of channels."""
    axes: Mapping[str, list[Axis]] = defaultdict(list)
    for axis in channels.axes:
        axes[axis.tensor].append(axis)
    for path, shape in channels.parameters.items():
        factors = [axis.entries(shape[0]) for axis in axes[path]]
        held = {name for _, names in factors for name in names}
        rest = torch.Size([n for dim, n in enumerate(shape) if dim not in held]).numel()
        yield tuple(factors), Cost(0, rest)


def _parts(factors: Sequence[Factor]) -> Iterable[tuple[Factor, ...]]:
    """Group factors that share axes, directly or through others."""
    parts: list[list[Factor]] = []
    for factor in factors:
        near = [part for part in parts if any(set(factor[1]) & set(names) for _, names in part)]
        parts = [part for part in parts if not any(part is other for other in near)]
        parts.append([other for part in near for other in part] + [factor])
    return [_distinct(part) for part in parts]


def _distinct(part: Sequence[Factor]) -> tuple[Factor, ...]:
    """Drop duplicates: queries and keys hold the same channels."""
    kept: list[Factor] = []
    for which, names in part:
        if not any(names == others and torch.equal(which, other) for other, others in kept):
            kept.append((which, names))
    return tuple(kept)


def _combinations(factors: Sequence[Factor], alive: Tensor) -> int:
    """Count the positions along all axes at which every channel remains."""
    if len(factors) == 1:
        return int(alive[factors[0][0]].sum())
    operands: list[Tensor | list[int]] = []
    for which, names in factors:
        operands += [alive[which], list(names)]
    return int(torch.einsum(*operands, []).round())
