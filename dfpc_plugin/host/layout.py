"""The tensors and dimensions of channels in Torch-Pruning's layers, and its functions that prune them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch_pruning as tp
from torch import nn
from torch_pruning import ops
from torch_pruning.dependency import Node

from dfpc_plugin.couplings.channels import Axis

Side = Literal["out", "in"]
Layout = Mapping[Side, tuple[tuple[str, int], ...]]
"""Per side of a layer, the `(tensor, dimension)` pairs that hold its channels."""

_MATRIX: Layout = {"out": (("weight", 0), ("bias", 0)), "in": (("weight", 1),)}
_TRANSPOSED: Layout = {"out": (("weight", 1), ("bias", 0)), "in": (("weight", 0),)}
_DEPTHWISE: Layout = dict.fromkeys(("out", "in"), (("weight", 0), ("weight", 1), ("bias", 0)))
_VECTORS: Layout = dict.fromkeys(("out", "in"), (("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)))
_EMBEDDING: Layout = dict.fromkeys(("out", "in"), (("weight", 1),))
_ATTENTION: Layout = {"out": (("out_proj.weight", 0),), "in": (("in_proj_weight", 1), ("q_proj_weight", 1))}
_RECURRENT: Layout = {"out": (("weight_hh_l0", 1),), "in": (("weight_ih_l0", 1),)}

_BY_TYPE: Mapping[Any, Layout] = {
    ops.OPTYPE.CONV: _MATRIX,
    ops.OPTYPE.DEPTHWISE_CONV: _DEPTHWISE,
    ops.OPTYPE.LINEAR: _MATRIX,
    ops.OPTYPE.EMBED: _EMBEDDING,
    **dict.fromkeys((ops.OPTYPE.BN, ops.OPTYPE.LN, ops.OPTYPE.GN, ops.OPTYPE.IN, ops.OPTYPE.PRELU), _VECTORS),
}
_NOTHING: Layout = {"out": (), "in": ()}


@dataclass(frozen=True)
class Place:
    """A dimension of a tensor in Torch-Pruning's graph, and Torch-Pruning's function (`handler`) that removes such channels.

    The `key` is equal for dimensions that share an item of a group, such as a layer's weight and bias; the node is that of the
    layer, or of the bare parameter.
    """

    key: tuple[Any, ...]
    node: Node
    handler: Callable[..., Any]
    axis: Axis


def layout_of(module: Any) -> Layout:
    """Return where Torch-Pruning's functions and importances expect the channels of `module`; may be empty.

    Attention and recurrent layers are not listed: their matrices belong to several couplings, so each matrix appears as a
    parameter.
    """
    kind = ops.module2type(module)
    if kind == ops.OPTYPE.CONV and module.transposed:
        return _TRANSPOSED
    if kind == ops.OPTYPE.LN and len(module.normalized_shape) > 1:
        return _NOTHING
    return _BY_TYPE.get(kind, _NOTHING)


def request_layout_of(module: nn.Module) -> Layout:
    """Return the dimensions that a user refers to by `module` and a side of it."""
    if isinstance(module, nn.MultiheadAttention):
        return _ATTENTION
    if isinstance(module, nn.LSTM):
        return _RECURRENT
    return layout_of(module)


def side_of(module: nn.Module, tensor: str, dim: int) -> Side | None:
    """Return the side of a layer that a dimension of one of its tensors belongs to, or None."""
    sides: tuple[Side, ...] = ("out", "in")
    return next((side for side in sides if (tensor, dim) in layout_of(module)[side]), None)


def handler_for(module: nn.Module, pruner: Any, side: Side) -> Callable[..., Any] | None:
    """Return Torch-Pruning's function for one side of a layer; None if its importances cannot index the layer."""
    if isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups != module.out_channels:
        if module.transposed and side == "out":
            return tp.prune_depthwise_conv_out_channels  # importances would index one group's columns by all outputs
        if side == "in" and module.groups == module.in_channels:
            return None  # importances take it for a depthwise convolution, whose inputs they do not read
    return pruner.prune_out_channels if side == "out" else pruner.prune_in_channels
