"""Give a model labelled parameters and traced integers for the time of a pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dfpc_plugin.labels.sizes import Attribute, TracedInt
from dfpc_plugin.labels.tensor import LabelTensor

if TYPE_CHECKING:
    from dfpc_plugin.labels.run import LabelRun

__all__ = ["labelled_state"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ONE_PER_OUTPUT = (nn.Linear, *_CONVOLUTIONS, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
"""Layers whose vectors have an entry per output channel of their weight, and share its labels."""

_TRACED = frozenset((int, tuple, list))
_UNTRACED = frozenset(
    ("kernel_size", "stride", "padding", "dilation", "output_padding", "_reversed_padding_repeated_twice")
)
"""What convolutions and pools keep about space, which no cut of channels changes."""


@contextlib.contextmanager
def labelled_state(run: LabelRun) -> Iterator[None]:
    """Replace the model's parameters, floating-point buffers and integer attributes; everything is put back at exit."""
    saved: list[tuple[dict[str, Any], str, Any]] = []
    known: set[int] = set()

    def replace(table: dict[str, Any], name: str, value: Any) -> None:
        saved.append((table, name, table[name]))
        table[name] = value

    try:
        for path, module in run.names.modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            prefix = f"{path}." if path else ""
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for table in tables:
                for name, tensor in table.items():
                    if isinstance(tensor, Tensor) and tensor.is_floating_point():
                        replace(table, name, _labelled(tensor, f"{prefix}{name}", module, run))
                        if table is module._buffers:
                            run.buffers.add(f"{prefix}{name}")
                        elif id(tensor) not in known:
                            known.add(id(tensor))
                            run.parameters[f"{prefix}{name}"] = tensor.shape
            attributes: dict[str, Any] = module.__dict__
            for name, value in list(attributes.items()):
                if type(value) in _TRACED and name not in _UNTRACED:
                    traced = _traced(value, path, name)
                    if traced is not value:
                        replace(attributes, name, traced)
        yield
    finally:
        for table, name, value in reversed(saved):
            table[name] = value


def _labelled(tensor: Tensor, path: str, module: Any, run: LabelRun) -> LabelTensor:
    """Label the dimensions of one parameter or buffer; a tensor with two names has one set of labels."""
    known = run.state.get(id(tensor))
    if known is not None:
        return known
    shared = _vector_labels(tensor, path, module, run)
    slots = (shared,) if shared is not None else tuple(_dimensions(tensor, path, module, run))
    result = LabelTensor(tensor.shape, slots, run, tensor.dtype, tensor.device, value=lambda: tensor)
    result.original = tensor
    run.state[id(tensor)] = result
    return result


def _vector_labels(tensor: Tensor, path: str, module: Any, run: LabelRun) -> Tensor | None:
    """Labels of a layer's bias or statistics: those of the outputs of its weight."""
    if tensor.dim() != 1 or not isinstance(module, _ONE_PER_OUTPUT):
        return None
    for other in (*module._parameters.values(), *module._buffers.values()):
        slots = other.slots if isinstance(other, LabelTensor) else ()
        if slots and slots[0].size(0) == tensor.size(0) > 1:
            labels = slots[0].flatten(1)[:, 0] if slots[0].dim() > 1 else slots[0]
            run.table.share(path, 0, labels)
            return labels
    return None


def _dimensions(tensor: Tensor, path: str, module: Any, run: LabelRun) -> Iterator[Tensor]:
    """Labels of every dimension with more than one entry; those of a convolution's kernel are positions."""
    convolves = isinstance(module, _CONVOLUTIONS + _TRANSPOSED) and tensor is module._parameters.get("weight")
    for dim, size in enumerate(tensor.shape[:2] if convolves else tensor.shape):
        if convolves and dim == 1 and module.groups > 1:
            yield _of_groups(tensor, path, module, run).expand(tensor.shape)
        elif size > 1:
            shape = [-1 if axis == dim else 1 for axis in range(tensor.dim())]
            yield run.table.own(path, dim, size).view(shape).expand(tensor.shape)


def _of_groups(weight: Tensor, path: str, module: Any, run: LabelRun) -> Tensor:
    """Labels of dimension 1 of a grouped convolution's weight: each group has channels of its own."""
    labels = run.table.own(path, 1, module.groups * weight.size(1), module.groups)
    rows = labels.view(module.groups, weight.size(1)).repeat_interleave(weight.size(0) // module.groups, 0)
    return rows.view(*weight.shape[:2], *[1] * (weight.dim() - 2))


def _traced(value: Any, module: str, name: str) -> Any:
    """Trace an integer, or those in a plain tuple or list; everything else is returned as it is."""
    if type(value) is int:
        return TracedInt(value, Attribute(module, name, value))
    if any(type(entry) is int for entry in value):
        entries = [
            TracedInt(entry, Attribute(module, name, entry, position)) if type(entry) is int else entry
            for position, entry in enumerate(value)
        ]
        return type(value)(entries)
    return value
