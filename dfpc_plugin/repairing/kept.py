"""Which outputs and inputs of every layer remain in a pruned model; found by comparing weights if there is no record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dfpc_plugin.couplings import CouplingMap, map_couplings
from dfpc_plugin.couplings.channels import Axis, Channels
from dfpc_plugin.couplings.outputs import RecordError, channels_of_record
from dfpc_plugin.errors import RepairError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.calls import LayerCall

_ALIKE = 1 - 1e-5
"""Rows with at least this cosine are equal up to a factor: rows of queries are rescaled when heads get narrower."""

_RELATED = 0.2
"""Least cosine of the remaining weights with those of the original. Unrelated weights have one near 0."""


def match_channels(channels: Channels, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
    """Return which channels are removed, `(channels,)` of bool; raises RepairError if the two models do not match.

    `before` and `after` hold the parameters and buffers of the unpruned and the pruned model by path, with as many
    dimensions. A dimension that is as long as before has lost nothing. In the others, slices are compared once the
    removed channels of the tensor's other dimensions are known, so channels are found in the order in which data flows.
    Dimensions with the same channels are compared together. If several slices are equal, the first ones count as kept.
    """
    search = _Search(channels, before, after)
    for sure in (True, False):
        while search.step(sure):
            if not sure:
                while search.step(True):
                    pass
    if search.pending:
        axis = search.pending[0][0]
        raise RepairError(
            f"Which channels of '{axis.layer}' were cut cannot be told from its weights, which have changed since; pass what "
            f"was removed, as in PruneResult.removed, or repair before weights are trained."
        )
    return search.gone


class _Search:
    """The state of the search.

    Attributes:
        gone: Which channels are known to be removed, `(channels,)`.
        pending: Dimensions whose channels are unknown, grouped by equal channels.
    """

    def __init__(self, channels: Channels, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        self.gone = torch.zeros_like(channels.removed)
        self._known = torch.zeros_like(channels.removed)
        self._before, self._after = before, after
        self._by_tensor: dict[str, list[Axis]] = defaultdict(list)
        groups: dict[tuple[int, ...], list[Axis]] = defaultdict(list)
        for axis in channels.axes:
            self._by_tensor[axis.tensor].append(axis)
            if axis.groups == 1:
                groups[tuple(axis.channels.tolist())].append(axis)
        self.pending = [sorted(axes, key=lambda a: before[a.tensor].dim()) for axes in groups.values()]
        self.pending = [axes for axes in self.pending if not self._untouched(axes)]

    def _untouched(self, axes: Sequence[Axis]) -> bool:
        """Mark the channels of a dimension that is as long as before."""
        axis = axes[0]
        if self._before[axis.tensor].shape[axis.dim] != self._after[axis.tensor].shape[axis.dim]:
            return False
        self._known[axis.channels] = True
        return True

    def step(self, sure: bool) -> bool:
        """Find the channels of one more dimension; with `sure`, only if the match is unique."""
        for number, axes in enumerate(self.pending):
            stayed = self._match(axes, sure)
            if stayed is not None:
                own = axes[0].channels
                self.gone[own[~stayed]] = True
                self._known[own] = True
                del self.pending[number]
                return True
        return False

    def _match(self, axes: Sequence[Axis], sure: bool) -> Tensor | None:
        """Which entries remain, `(entries,)`; None if unknown."""
        own = axes[0].channels
        if self._known[own].all():
            return ~self.gone[own]
        possible: Tensor | None = None
        for axis in axes:
            slices = self._slices(axis)
            if slices is None:
                continue
            for same in _same(*slices):
                together = same if possible is None else possible & same
                if _leftmost(together) is not None:
                    possible = together
                    break
        if possible is None:
            return None
        known = self._known[own]
        possible = possible & ~(known & self.gone[own])
        first = _leftmost(possible)
        if first is None:
            return None
        last = possible.shape[1] - 1 - _leftmost(possible.flip(0, 1)).flip(0)  # type: ignore[union-attr]
        if sure and not torch.equal(first, last):
            return None
        stayed = torch.zeros(len(own), dtype=torch.bool)
        stayed[first] = True
        return stayed

    def _slices(self, axis: Axis) -> tuple[Tensor, Tensor] | None:
        """Slices before and after along a dimension, `(entries, values)`; None if the other dimensions are unknown."""
        tensor, pruned = self._before[axis.tensor].detach(), self._after[axis.tensor].detach()
        for other in self._by_tensor[axis.tensor]:
            if other.dim == axis.dim:
                continue
            if other.groups > 1:
                if tensor.shape[other.dim] != pruned.shape[other.dim]:
                    return None
                continue
            if not self._known[other.channels].all():
                return None
            left = (~self.gone[other.channels]).nonzero().squeeze(1)
            tensor = tensor.index_select(other.dim, left.to(tensor.device))
        old, new = (t.movedim(axis.dim, 0).flatten(1) if t.dim() > 1 else t[:, None] for t in (tensor, pruned))
        return (old.cpu(), new.cpu()) if old.shape[1] == new.shape[1] else None


def _same(old: Tensor, new: Tensor) -> list[Tensor]:
    """Which slices are equal, `(after, before)`: first exactly, then up to a factor."""
    numbers = torch.unique(torch.cat([old, new]), dim=0, return_inverse=True)[1]
    exact = numbers[len(old) :, None] == numbers[None, : len(old)]
    if old.shape[1] < 2:
        return [exact]
    old, new = (t.double() / t.double().norm(dim=1, keepdim=True).clamp_min(1e-300) for t in (old, new))
    return [exact, new @ old.t() > _ALIKE]


def _leftmost(possible: Tensor) -> Tensor | None:
    """The first column for every row, in increasing order; None if there are not enough."""
    result, start = [], 0
    for row in possible:
        places = row[start:].nonzero()
        if not len(places):
            return None
        start += int(places[0]) + 1
        result.append(start - 1)
    return torch.tensor(result, dtype=torch.long)


class Kept:
    """The channels that remain in a pruned model.

    Attributes:
        removed: Which channels are removed, `(channels,)` of bool.
    """

    def __init__(self, couplings: CouplingMap, removed: Tensor) -> None:
        """Combine the channels `removed` with the `couplings` of the unpruned model."""
        self.removed = removed
        self._axes: dict[tuple[str, int], Axis] = {(a.tensor, a.dim): a for a in couplings.channels.axes}

    def along(self, tensor: str, dim: int) -> Tensor | None:
        """Which entries remain along a dimension of a parameter, `(entries,)` of bool; None if none can be pruned."""
        axis = self._axes.get((tensor, dim))
        return None if axis is None else ~self.removed[axis.channels]

    def outputs(self, call: LayerCall) -> Tensor | None:
        """Which outputs of a call on the unpruned model remain; None if all do."""
        kept = self._of(call.name, call.weight_axis)
        return kept if kept is None else kept[call.rows_of]

    def inputs(self, call: LayerCall) -> Tensor | None:
        """Which inputs of a call on the unpruned model remain, `(channels,)`, over all groups.

        None if all do, or if each group remains or is removed as a whole: a depthwise convolution keeps all that it
        reads.
        """
        kept = self._of(call.name, 1 - call.weight_axis)
        if kept is None or call.groups == 1:
            return kept
        of_groups = kept.view(call.groups, -1)
        return None if bool((of_groups == of_groups[:, :1]).all()) else kept

    def _of(self, layer: str, dim: int) -> Tensor | None:
        kept = next((k for t in (f"{layer}.weight", layer) if (k := self.along(t, dim)) is not None), None)
        return None if kept is None or bool(kept.all()) else kept


def kept_channels(
    model: nn.Module,
    original: nn.Module,
    example_inputs: ExampleInputs,
    forward_fn: ForwardFunction | None,
    removed: Mapping[str, Sequence[int]] | None,
) -> Kept:
    """Find out which channels of `original` remain in `model`; raises as `find_couplings` does.

    `removed` has the indices of removed outputs by layer, as in `PruneResult.removed`; None to find them by comparing
    weights. Raises RepairError if they cannot be found, or `model` is not `original` without some channels.
    """
    if model is original:
        raise RepairError(
            "model and original are the same object; give the unpruned model as original, such as the copy.deepcopy that was "
            "made before prune(..., inplace=True)."
        )
    _require_part(model, original)
    couplings = map_couplings(original, example_inputs, forward_fn)
    channels = couplings.channels
    tensors, pruned = _tensors(original), _tensors(model)
    missing = next(
        (t for t in (a.tensor for a in channels.axes) if t not in pruned or pruned[t].dim() != tensors[t].dim()), None
    )
    if missing is not None:
        raise RepairError(f"The pruned model has no '{missing}' like the original; pass what it was pruned from.")
    if removed is None:
        gone = match_channels(channels, tensors, pruned)
    else:
        try:
            gone = channels_of_record(couplings, removed)
        except RecordError as error:
            raise RepairError(
                f"removed {error.problem}; pass what PruneResult.removed is."
                if error.problem
                else f"removed names outputs of '{error.layer}' that the original does not have; pass the record of this cut."
            ) from None
    for axis in channels.axes:
        if axis.groups == 1:
            left = int((~gone[axis.channels]).sum())
            found = pruned[axis.tensor].shape[axis.dim]
            if found != left:
                raise RepairError(
                    f"'{axis.tensor}' of the pruned model has {found} entries in dimension {axis.dim} where {left} would be "
                    f"left; pass the model that it was pruned from and, if the cut is known, its record as removed."
                )
    _require_same_weights(channels, gone, tensors, pruned)
    return Kept(couplings, gone)


def _require_same_weights(
    channels: Channels, gone: Tensor, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    """Raise RepairError if the weights of a pruned model have nothing to do with those that remain of the original.

    Training and repair leave them similar. Weights of another initialisation, or of another checkpoint, have a cosine near 0.
    """
    by_tensor: dict[str, list[Axis]] = defaultdict(list)
    for axis in channels.axes:
        by_tensor[axis.tensor].append(axis)
    sums = torch.zeros(3, dtype=torch.float64)
    for name, axes in by_tensor.items():
        old, new = before[name].detach(), after[name].detach()
        if old.dim() < 2 or not old.is_floating_point() or any(axis.groups > 1 for axis in axes):
            continue
        for axis in axes:
            old = old.index_select(axis.dim, (~gone[axis.channels]).nonzero().squeeze(1).to(old.device))
        if old.shape == new.shape:
            pair = (old.flatten().double().cpu(), new.flatten().double().cpu())
            sums += torch.stack([pair[0] @ pair[1], pair[0] @ pair[0], pair[1] @ pair[1]])
    product, *squares = sums.tolist()
    cosine = product / max((squares[0] * squares[1]) ** 0.5, 1e-300)
    if min(squares) > 0 and cosine < _RELATED:
        raise RepairError(
            f"The weights of the pruned model are not those of the original (cosine {cosine:.2f}, where 1 is equal); pass the "
            f"model that it was pruned from, with the same checkpoint."
        )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by path."""
    named = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {path: tensor for found in named for path, tensor in found}


def _require_part(model: nn.Module, original: nn.Module) -> None:
    """Raise RepairError early if the parameters of a model cannot be parts of those of the original.

    It names the first of them, and says whether the two models are swapped.
    """
    whole = {path: tuple(parameter.shape) for path, parameter in original.named_parameters(remove_duplicate=False)}
    part = {path: tuple(parameter.shape) for path, parameter in model.named_parameters(remove_duplicate=False)}
    modules = dict(original.named_modules(remove_duplicate=False))  # these may have lost parameters of their own

    def fits(path: str, shape: tuple[int, ...]) -> bool:
        return _fits(shape, whole[path]) if path in whole else path.rpartition(".")[0] in modules

    wrong = next((path for path, shape in part.items() if not fits(path, shape)), None)
    if wrong is None:
        return
    if wrong not in whole:
        raise RepairError(f"The original has no '{wrong}' like the pruned model; pass what that was pruned from.")
    told = f"'{wrong}' has the shape {part[wrong]} in the pruned model and {whole[wrong]} in the original"
    if part.keys() == whole.keys() and all(_fits(whole[path], part[path]) for path in part):
        raise RepairError(f"The pruned model and the original are swapped: {told}; call repair(pruned, original, ...).")
    raise RepairError(f"{told}, so it was pruned from another one; pass that, with its weights, as original.")


def _fits(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether a shape is no longer than another in any dimension."""
    return len(part) == len(whole) and all(a <= b for a, b in zip(part, whole, strict=True))
