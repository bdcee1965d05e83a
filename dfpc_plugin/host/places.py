"""Where Torch-Pruning's layers hold channels, and its node and pruning function for every labelled dimension of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.dependency import Node

from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.couplings.channels import Axis
from dfpc_plugin.errors import GroupError

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


class Places:
    """The places of channels in Torch-Pruning's graph.

    Attributes:
        nodes: A node for every module and every bare parameter that holds channels.
        by_axis: The place of every labelled dimension, by its id, except those that importances cannot index.
    """

    def __init__(self, graph: tp.DependencyGraph) -> None:
        """Make nodes and places for the `coupling_map` of a `DataFlowGraph`."""
        self._graph = graph
        self._modules = dict(graph.model.named_modules(remove_duplicate=False))
        self.nodes: dict[Any, Node] = {}
        self.by_axis: dict[int, Place] = {}
        self._free = {id(a) for c in graph.couplings if c.protected is None for a in c.axes}
        self._axes = {(axis.tensor, axis.dim): axis for axis in graph.coupling_map.channels.axes}
        self._names: dict[int, str] = {}
        self._ranks: dict[str, tuple[bool, bool]] = {}
        for axis in graph.coupling_map.channels.axes:
            place = self._place(axis)
            if place is not None:
                self.by_axis[id(axis)] = place

    def owner_of(self, axis: Axis) -> tuple[nn.Module, Tensor]:
        """Return the module that holds a dimension's tensor, and the tensor."""
        path, _, name = axis.tensor.rpartition(".")
        owner = self._modules[path]
        return owner, getattr(owner, name)

    def root_of(self, coupling: DataFlowCoupling, module: Any = None) -> Place:
        """Return the place that names a coupling: in `module` if given, else the first layer that writes it."""
        places = [place for place in map(self._graph.place_of, coupling.axes) if place is not None]
        if module is not None:
            places = [place for place in places if place.node.module is module]
        if not places:
            raise GroupError(f"The coupling of '{coupling.name}' has no channels there; name a layer of it.")
        return min(places, key=_order)  # of equal places, the first

    def requested(self, module: Any, side: Side) -> Place:
        """Return the place of one side of a layer that a user named."""
        if isinstance(module, nn.Parameter):
            return self.by_axis[id(self._axes[self.nodes[module].name, self.nodes[module].pruning_dim])]
        for name, dim in request_layout_of(module)[side]:
            path, _, last = name.rpartition(".")
            tensor = getattr(module.get_submodule(path), last, None)
            axis = None if tensor is None else self._axes.get((self._names.get(id(tensor), ""), dim))
            if axis is not None and id(axis) in self.by_axis:
                return self.by_axis[id(axis)]
        name = self._graph.name_of(module)
        raise GroupError(f"The {side}puts of '{name}' are no channels that can be named; name a layer next to it.")

    def _place(self, axis: Axis) -> Place | None:
        owner, tensor = self.owner_of(axis)
        self._names[id(tensor)] = axis.tensor
        path, _, name = axis.tensor.rpartition(".")
        node = self.nodes.setdefault(owner, Node(owner, None, self._graph.name_of(owner)))
        pruner = self._graph.get_pruner_of_module(owner)
        if type(owner) in self._graph.CUSTOMIZED_PRUNERS:
            side: Side | None = "in" if axis.role == "feed-out" else "out"
        else:
            side = side_of(owner, name, axis.dim)
        if side is not None:
            handler = handler_for(owner, pruner, side)
            return None if handler is None else Place((path, handler), node, handler, axis)
        if isinstance(tensor, nn.Parameter):
            return self._bare(axis, tensor)
        dummy = self._graph.REGISTERED_PRUNERS[ops.OPTYPE.ELEMENTWISE].prune_out_channels
        return Place((axis.tensor, axis.dim), node, dummy, axis)

    def _bare(self, axis: Axis, tensor: nn.Parameter) -> Place:
        """A parameter of no layer that Torch-Pruning knows; `nodes` keeps its dimension that is likeliest to be named."""
        node = Node(tensor, None, axis.tensor)
        node.pruning_dim = axis.dim
        rank = (id(axis) in self._free, axis.role == "feed-in")
        if tensor not in self.nodes or rank > self._ranks[axis.tensor]:
            self.nodes[tensor], self._ranks[axis.tensor] = node, rank
        self._graph._param_to_name[tensor] = axis.tensor
        handler = self._graph.REGISTERED_PRUNERS[ops.OPTYPE.PARAMETER].prune_out_channels
        return Place((axis.tensor, axis.dim), node, handler, axis)


def _order(place: Place) -> int:
    """Rank of a place as the name of its coupling: layers that write it come first."""
    if place.axis.role != "feed-in":
        return 3
    if isinstance(place.node.module, nn.Parameter):
        return 2
    return int(place.node.type == ops.OPTYPE.DEPTHWISE_CONV)
