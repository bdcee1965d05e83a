"""Remove channels from a model: all of them, with every tensor and attribute, or none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dfpc_plugin.computed_weights import computed_by_hooks, parametrizations_at_rest
from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.couplings.channels import Axis, Channels
from dfpc_plugin.couplings.sizes import Violation, before_and_after, solve
from dfpc_plugin.errors import CutError
from dfpc_plugin.surgery.attributes import described, restated, stated_in
from dfpc_plugin.tracing.sizes import Attribute, Expression


def cut(model: nn.Module, couplings: CouplingMap, channels: Tensor) -> None:
    """Remove `channels` (their numbers) from every tensor of `model`, and update its attributes.

    Parameters stay the same objects, so ties between modules survive. `couplings` then counts the channels as removed.

    Raises:
        CutError: The model's forward cannot work without them, or `couplings` is of another model; the model is unchanged.
    """
    known = couplings.channels
    channels = torch.as_tensor(channels, dtype=torch.long, device="cpu").reshape(-1)
    _require_free(couplings, channels)
    removed = known.removed.clone()
    removed[channels] = True
    try:
        values = solve(known, removed, couplings.sizes_of(removed), couplings.mentions)
    except Violation as violation:
        raise CutError(f"These channels cannot be cut: {violation}.") from None
    changes = _Changes(model, known, removed, values)
    try:
        changes.make()
    except BaseException:
        changes.undo()
        raise
    known.removed, known.values = removed, values


def _require_free(couplings: CouplingMap, channels: Tensor) -> None:
    """Raise if some channels are protected or already removed, or nothing of a coupling would remain."""
    known = couplings.channels
    if len(channels) and not 0 <= int(channels.min()) <= int(channels.max()) < len(known.removed):
        raise CutError(f"Channels are numbered from 1 to {len(known.removed) - 1}; {channels.max()} is none of them.")
    for channel in channels.tolist():
        if channel in known.reasons:
            raise CutError(f"Channel {channel} cannot be pruned: it {known.reasons[channel]}.")
    if known.removed[channels].any():
        raise CutError("Some of these channels have been cut before; cut channels that are left.")
    gone = known.removed.clone()
    gone[channels] = True
    for coupling in couplings.couplings:
        if gone[coupling.blocks].all(1).any() and not known.removed[coupling.blocks].all(1).any():
            raise CutError(
                f"Cutting these channels would leave nothing of the coupling '{coupling.name}'; keep a unit."
            )


class _Changes:
    """Changes of a model that can be undone: remove the `removed` channels and set attributes to `values`."""

    def __init__(self, model: nn.Module, known: Channels, removed: Tensor, values: Mapping[Attribute, int]) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._known, self._removed, self._values = known, removed, values
        self._tensors: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._attributes: list[tuple[nn.Module, str, Any]] = []
        self._changed: set[int] = set()

    def make(self) -> None:
        by_tensor: dict[str, list[Axis]] = defaultdict(list)
        for axis in self._known.axes:
            if (self._removed[axis.channels] & ~self._known.removed[axis.channels]).any():
                by_tensor[axis.tensor].append(axis)
        for tensor, axes in by_tensor.items():
            self._shrink(tensor, axes)
        self._rescale()
        for attribute, value in self._values.items():
            current = vars(self._modules[attribute.module])[attribute.name]
            self._set(self._modules[attribute.module], attribute.name, restated(current, attribute.position, value))
        self._describe()
        self._restate()

    def _shrink(self, path: str, axes: list[Axis]) -> None:
        owner, _, name = path.rpartition(".")
        module = self._modules.get(owner)
        tensor = None if module is None else _held(module, name)
        if module is None or tensor is None:
            raise CutError(f"The model has no '{path}' any more; find its couplings again.")
        left = ~self._known.removed
        keeps = {axis.dim: (axis.groups, ~self._removed[axis.channels][left[axis.channels]]) for axis in axes}
        for dim, (groups, keep) in keeps.items():
            if groups == 1 and tensor.size(dim) != len(keep):
                raise CutError(
                    f"'{path}' has {tensor.size(dim)} entries in dimension {dim} where {len(keep)} were found; "
                    f"the model has changed, find its couplings again."
                )

        def kept(whole: Tensor) -> Tensor:
            return _laid_out_like(whole, _kept(whole, keeps))

        if self._is_plain(tensor):
            self._replace(tensor, kept(tensor.detach()))
            return
        self._write(tensor, kept(tensor.data), None if tensor.grad is None else kept(tensor.grad))
        self._changed.add(id(tensor))

    def _is_plain(self, tensor: Tensor) -> bool:
        """Whether modules hold a tensor in plain attributes only, not as a parameter or buffer."""
        tables = (table for module in self._modules.values() for table in (module._parameters, module._buffers))
        return not any(tensor is other for table in tables for other in table.values())

    def _replace(self, tensor: Tensor, other: Tensor) -> None:
        """Replace a tensor in every attribute that holds it. It is not changed itself, as others may hold it, too."""
        for module in set(self._modules.values()):
            for name in [name for name, value in vars(module).items() if value is tensor]:
                self._set(module, name, other)

    def _rescale(self) -> None:
        """Scale weights so that numbers that depend on widths, such as the scale of attention's logits, keep their effect."""
        for scale in self._known.scales:
            old, new = self._before_and_after(scale.expression)
            if old == new or not old or not new:
                continue
            for number, rows in scale.rows.items():
                axis = self._known.axes[number]
                left = ~self._removed[axis.channels]
                self._multiply(axis, (left.cumsum(0)[rows] - 1)[left[rows]], (old / new) ** scale.power)

    def _before_and_after(self, expression: Expression) -> tuple[Any, Any]:
        known = self._known
        return before_and_after(expression, known, (known.removed, known.values), (self._removed, self._values))

    def _multiply(self, axis: Axis, index: Tensor, factor: float) -> None:
        owner, _, name = axis.tensor.rpartition(".")
        tensor = self._modules[owner]._parameters.get(name)
        if tensor is None or axis.groups > 1:
            return
        factors = torch.ones(tensor.size(axis.dim), dtype=tensor.dtype, device=tensor.device)
        factors[index.to(tensor.device)] = factor
        rows = [-1 if dim == axis.dim else 1 for dim in range(tensor.dim())]
        self._write(tensor, tensor.data * factors.view(rows), tensor.grad)

    def _describe(self) -> None:
        """Update the width attributes of changed layers, and weights that hooks compute."""
        solved = {(self._modules[attribute.module], attribute.name) for attribute in self._values}
        for module in set(self._modules.values()):
            if not any(id(tensor) in self._changed for tensor in _weights_of(module)):
                continue
            for name, weight in computed_by_hooks(module).items():
                self._set(module, name, weight)
            with parametrizations_at_rest(module), torch.no_grad():
                widths = described(module)
            for name, value in widths.items():
                if (module, name) not in solved:  # the forward's own requirement is more reliable
                    self._set(module, name, value)

    def _restate(self) -> None:
        """Update stated widths that were true before."""
        for stated in self._known.stated:
            old, new = self._before_and_after(stated.expression)
            module = self._modules.get(stated.module)
            if module is not None and new != old == stated_in(vars(module).get(stated.name), stated.entry):
                self._set(module, stated.name, restated(vars(module)[stated.name], stated.entry, new))

    def _set(self, module: nn.Module, name: str, value: Any) -> None:
        self._attributes.append((module, name, vars(module)[name]))
        vars(module)[name] = value

    def _write(self, tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
        self._tensors.append((tensor, tensor.data, tensor.grad))
        _assign(tensor, data, grad)

    def undo(self) -> None:
        for module, name, value in reversed(self._attributes):
            vars(module)[name] = value
        for tensor, data, grad in reversed(self._tensors):
            _assign(tensor, data, grad)


def _assign(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    """Set values and gradient; torch refuses data of another shape beside a gradient."""
    tensor.grad = None
    tensor.data = data
    tensor.grad = grad


def _held(module: nn.Module, name: str) -> Tensor | None:
    found = (table.get(name) for table in (module._parameters, module._buffers, vars(module)))
    return next((value for value in found if isinstance(value, Tensor)), None)


def _weights_of(module: nn.Module) -> Iterator[Tensor | None]:
    """A layer's own tensors, those of its parts, and those that its weights are computed from."""
    parts: list[nn.Module] = [module]
    if isinstance(module, nn.MultiheadAttention):
        parts += module.children()
    if parametrize.is_parametrized(module):
        parts += module.parametrizations.modules()  # type: ignore[union-attr]
    for part in parts:
        yield from (*part._parameters.values(), *part._buffers.values())


def _kept(tensor: Tensor, keeps: Mapping[int, tuple[int, Tensor]]) -> Tensor:
    """Copy the remaining elements along every dimension."""
    grouped = next(((dim, *entry) for dim, entry in keeps.items() if entry[0] > 1), None)
    if grouped is not None:
        outputs = keeps.get(0, (1, torch.ones(tensor.size(0), dtype=torch.bool, device="cpu")))[1]
        return _kept_of_groups(tensor, outputs, grouped[2])
    for dim, (_, keep) in keeps.items():
        tensor = _picked(tensor, dim, keep)
    return tensor.clone() if not keeps else tensor


def _kept_of_groups(weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    """Copy the remaining part of a grouped convolution's weight; groups may keep different inputs."""
    alive = inputs.view(-1, weight.size(1))
    rows = outputs.view(len(alive), -1)
    groups = alive.any(1).nonzero().squeeze(1).tolist()
    wanted = rows & alive.any(1)[:, None]
    if all(torch.equal(alive[group], alive[groups[0]]) for group in groups[1:]):
        return _picked(_picked(weight, 1, alive[groups[0]]), 0, wanted.reshape(-1))
    blocks = weight.unflatten(0, (len(alive), -1))
    return torch.cat([_picked(_picked(blocks[group], 0, rows[group]), 1, alive[group]) for group in groups])


def _laid_out_like(before: Tensor, after: Tensor) -> Tensor:
    """Return `after` in the memory format of `before`, such as channels last, which `index_select` does not keep."""
    # Among equal strides, dimensions of size one come last, which distinguishes formats of 1x1 and depthwise kernels.
    places = zip(before.stride(), before.shape, strict=True)
    order = [dim for dim, _ in sorted(enumerate(places), key=lambda place: (-place[1][0], place[1][1] == 1))]
    strides, step = [0] * before.dim(), 1
    for dim in reversed(order):
        strides[dim], step = step, step * max(1, after.size(dim))
    if tuple(strides) == after.stride():
        return after
    result = torch.empty_strided(after.shape, strides, dtype=after.dtype, device=after.device)
    return result.copy_(after)


def _picked(tensor: Tensor, dim: int, keep: Tensor) -> Tensor:
    """Copy the remaining elements. Positions are computed on the CPU, as `tensor` may have no values."""
    return tensor.index_select(dim, keep.nonzero().squeeze(1).to(tensor.device))
