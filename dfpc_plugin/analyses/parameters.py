"""Labels of a model's parameters and buffers: a number per index of every dimension that can hold channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from dfpc_plugin.analyses.table import LabelTable
from dfpc_plugin.tracing.proxy import Proxy

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ONE_PER_OUTPUT = (nn.Linear, *_CONVOLUTIONS, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
"""Layers whose vectors have an element per output channel of their weight, and share its labels."""


def label_parameter(table: LabelTable, proxy: Proxy, path: str, module: Any) -> None:
    """Label the dimensions of one parameter or buffer."""
    tensor = proxy.original
    assert tensor is not None
    shared = _vector_labels(tensor, path, module, table)
    proxy.set_slots((shared,) if shared is not None else tuple(_dimensions(tensor, path, module, table)))
    first = proxy.labels_along(0) if tensor.dim() else None
    proxy.rows = () if first is None else (first,)


def _vector_labels(tensor: Tensor, path: str, module: Any, table: LabelTable) -> Tensor | None:
    """Labels of a layer's bias or statistics: those of its weight's outputs."""
    if tensor.dim() != 1 or not isinstance(module, _ONE_PER_OUTPUT):
        return None
    for other in (*module._parameters.values(), *module._buffers.values()):
        slots = other.slots if isinstance(other, Proxy) else ()
        if slots and slots[0].size(0) == tensor.size(0) > 1:
            labels = slots[0].flatten(1)[:, 0] if slots[0].dim() > 1 else slots[0]
            table.share(path, 0, labels)
            return labels
    return None


def _dimensions(tensor: Tensor, path: str, module: Any, table: LabelTable) -> Iterator[Tensor]:
    """Labels of every dimension of size above one, except the positions of a convolution's kernel."""
    parameters = [p.original if isinstance(p, Proxy) else p for p in (module._parameters.get("weight"),)]
    convolves = isinstance(module, _CONVOLUTIONS + _TRANSPOSED) and tensor is parameters[0]
    for dim, size in enumerate(tensor.shape[:2] if convolves else tensor.shape):
        if convolves and dim == 1 and module.groups > 1:
            yield _of_groups(tensor, path, module, table).expand(tensor.shape)
        elif size > 1:
            shape = [-1 if axis == dim else 1 for axis in range(tensor.dim())]
            yield table.own(path, dim, size).view(shape).expand(tensor.shape)


def _of_groups(weight: Tensor, path: str, module: Any, table: LabelTable) -> Tensor:
    """Labels of dimension 1 of a grouped convolution's weight: each group has channels of its own."""
    labels = table.own(path, 1, module.groups * weight.size(1), module.groups)
    rows = labels.view(module.groups, weight.size(1)).repeat_interleave(weight.size(0) // module.groups, 0)
    return rows.view(*weight.shape[:2], *[1] * (weight.dim() - 2))
