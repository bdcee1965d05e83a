"""A Torch-Pruning dependency graph whose groups are couplings found by data flow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.dependency import Node

from dfpc_plugin.couplings import CouplingMap, DataFlowCoupling, map_couplings, prunable_share
from dfpc_plugin.couplings.channels import Axis
from dfpc_plugin.errors import GroupError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.host.checks import check_range
from dfpc_plugin.host.group import DataFlowGroup, UnitFunction
from dfpc_plugin.host.places import Place, Places, Side, request_layout_of
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.surgery import cut, protect_what_breaks
from dfpc_plugin.trace import Flow
from dfpc_plugin.traced_call import noting
from dfpc_plugin.wrappers import plain_model


class DataFlowGraph(tp.DependencyGraph):
    """Torch-Pruning's dependency graph, with couplings in place of a traced graph.

    Attributes:
        coupling_map: The couplings, with everything that pruning needs.
    """

    coupling_map: CouplingMap

    def __init__(self, *, whole_heads: bool = False, probe: bool = True, flow: Flow | None = None) -> None:
        """Choose the units of attention, and when couplings are pruned on trial.

        Args:
            whole_heads: Attention loses whole heads instead of dimensions of all of them.
            probe: Prune units of every coupling on trial when the graph is built, and protect what breaks the forward.
                Otherwise this is done before the first pruning, or by `probe`.
            flow: What is propagated through the model in the same run, for an importance that needs it.
        """
        super().__init__()
        self._whole_heads, self._at_once, self._flow = whole_heads, probe, flow
        self._untried: Callable[[], object] | None = None

    @property
    def couplings(self) -> list[DataFlowCoupling]:
        """All couplings, protected ones included."""
        return self.coupling_map.couplings

    @cached_property
    def _share(self) -> tuple[float, float]:
        return prunable_share(self.coupling_map)

    @property
    def prunable_macs(self) -> float:
        """Share of the unpruned model's MACs in layers of couplings that can be pruned, 0 to 1."""
        return self._share[0]

    @property
    def prunable_parameters(self) -> float:
        """Share of the unpruned model's parameters, by elements, in such couplings, 0 to 1."""
        return self._share[1]

    @noting
    def build_dependency(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        forward_fn: ForwardFunction | None = None,
        output_transform: Callable[..., Any] | None = None,
        unwrapped_parameters: Any = None,
        customized_pruners: Mapping[Any, Any] | None = None,
        ignored_layers: Sequence[nn.Module] | None = None,
        ignored_params: Sequence[nn.Parameter] | None = None,
        verbose: bool = True,
    ) -> DataFlowGraph:
        """Find the couplings of `model`. Computes no gradients, and does not change the model.

        Args:
            model: The model to prune.
            example_inputs: As for `find_couplings`.
            forward_fn: Called as `forward_fn(model, example_inputs)` instead of the model.
            output_transform: Not used: every output counts.
            unwrapped_parameters: Kept as an attribute; dimensions are found by data flow.
            customized_pruners: Registered, so that groups name them; this package removes the channels.
            ignored_layers: Modules whose channels are not pruned.
            ignored_params: Parameters whose channels are not pruned.
            verbose: As in Torch-Pruning; nothing is printed.

        Raises:
            DFPCError: As `find_couplings` raises.
        """
        self.model = model = plain_model(model, inplace=True)
        example_inputs = as_inputs(example_inputs)
        self._module2name = {module: name for name, module in model.named_modules()}
        for kind, pruner in (customized_pruners or {}).items():
            self.register_customized_layer(kind, pruner)
        self.IGNORED_LAYERS_IN_TRACING.extend(ignored_layers or ())
        self.ignored_params = list(ignored_params or ())
        given = unwrapped_parameters.items() if isinstance(unwrapped_parameters, Mapping) else unwrapped_parameters
        self.verbose = False  # else Torch-Pruning warns of parameters whose dimension it guesses
        self._param_to_name, self.unwrapped_parameters = self._detect_unwrapped_parameters(list(given or ()))
        self.verbose = verbose
        self.coupling_map = map_couplings(
            model, example_inputs, forward_fn, whole_heads=self._whole_heads, flow=self._flow
        )
        self._untried = functools.partial(protect_what_breaks, model, example_inputs, self.coupling_map, forward_fn)
        if self._at_once:
            self.probe()
        self._places = Places(self)
        self.module2node: dict[Any, Node] = self._places.nodes
        self._module2name.update((m, n.name) for m, n in self.module2node.items() if isinstance(m, nn.Parameter))
        self._coupling_of = torch.full(self.coupling_map.channels.removed.shape, -1)
        self._unit_of = self._coupling_of.clone()
        for number, coupling in enumerate(self.couplings):
            self._coupling_of[coupling.blocks] = number
            self._unit_of[coupling.blocks] = torch.arange(coupling.channels).expand(coupling.blocks.shape)
        return self

    def probe(self) -> None:
        """Prune the couplings on trial, if not done yet: see `surgery.protect_what_breaks`."""
        if self._untried is not None:
            self._untried()
            self._untried = None
            self.__dict__.pop("_share", None)

    def place_of(self, axis: Axis) -> Place | None:
        """Return the place of a dimension in Torch-Pruning's graph, or None if importances cannot index it."""
        return self._places.by_axis.get(id(axis))

    def name_of(self, module: Any) -> str:
        """Return the path of a module or parameter."""
        return self._module2name[module]

    def units_left(self, coupling: DataFlowCoupling) -> Tensor:
        """Return the columns of `coupling.blocks` that have not been pruned."""
        return coupling.units_left(self.coupling_map.channels.removed)

    def get_all_groups(
        self,
        ignored_layers: Iterable[Any] = (),
        root_module_types: Iterable[type] = (ops.TORCH_CONV, ops.TORCH_LINEAR, ops.TORCH_LSTM, ops.TORCH_EMBED),
    ) -> Iterator[DataFlowGroup]:
        """Yield one group, with all remaining units, per coupling that may be pruned.

        Args:
            ignored_layers: Couplings that one of these writes or transforms are left out; layers that read one do not matter.
            root_module_types: Couplings that no such layer writes are left out. Matrices outside of layers that Torch-Pruning
                knows, such as those of attention, count as linear layers.
        """
        ignored = {id(layer) for layer in [*ignored_layers, *self.IGNORED_LAYERS_IN_TRACING, *self.ignored_params]}
        types = tuple(root_module_types)
        for coupling in self.couplings:
            if coupling.protected is None and self._is_wanted(coupling, ignored, types):
                yield self.group_of(coupling)

    def group_of(self, coupling: DataFlowCoupling, units: Tensor | None = None) -> DataFlowGroup:
        """Return the group of some units of a coupling (columns of its blocks), by default all remaining ones."""
        units = self.units_left(coupling) if units is None else units.sort().values
        return DataFlowGroup(self, [coupling], [units], self._places.root_of(coupling))

    def _is_wanted(self, coupling: DataFlowCoupling, ignored: set[int], types: tuple[type, ...]) -> bool:
        """Tell whether a layer of these types writes a coupling and nothing ignored holds it; ignored layers may read it."""
        found = False
        for axis in coupling.axes:
            owner, tensor = self._places.owner_of(axis)
            if id(tensor) in ignored or (axis.role != "feed-out" and id(owner) in ignored):
                return False
            if axis.role == "feed-in":
                is_matrix = request_layout_of(owner)["out"] == () or isinstance(owner, nn.MultiheadAttention)
                found |= isinstance(owner, types) or (is_matrix and ops.TORCH_LINEAR in types)
        return found

    def get_pruning_group(
        self, module: Any, pruning_fn: Callable[..., Any], idxs: int | Iterable[int] | Tensor
    ) -> DataFlowGroup:
        """Return the group of units that hold some channels.

        Args:
            module: A module or bare parameter of the model.
            pruning_fn: A function of Torch-Pruning such as `tp.prune_conv_out_channels`, or the handler of a group's first
                item.
            idxs: Indices of `module`'s outputs or inputs, depending on the function; with a group's handler, numbers of units
                among all remaining ones of its couplings.

        Raises:
            GroupError: There are no such channels, or they are protected.
        """
        asked = torch.as_tensor(idxs if isinstance(idxs, int | Tensor) else list(idxs), dtype=torch.long)
        chosen = list(dict.fromkeys(asked.reshape(-1).tolist()))
        if module not in self.module2node:
            kind = type(module).__name__
            raise GroupError(f"{kind} holds no channels of this graph's model; name one of its layers.")
        if isinstance(pruning_fn, UnitFunction):
            return self._group_by_units(module, pruning_fn, chosen)
        return self._group_by_channels(module, self._side(pruning_fn), chosen)

    def count_channels(self, module: Any, pruning_fn: Callable[..., Any]) -> int:
        """Return the number of remaining channels on one side of a layer, as `get_pruning_group` counts them."""
        if isinstance(pruning_fn, UnitFunction):
            return sum(len(self.units_left(coupling)) for coupling in pruning_fn.couplings)
        axis = self._places.requested(module, self._side(pruning_fn)).axis
        return int((~self.coupling_map.channels.removed[axis.channels]).sum())

    def _side(self, pruning_fn: Callable[..., Any]) -> Side:
        if self.is_out_channel_pruning_fn(pruning_fn):
            return "out"
        if self.is_in_channel_pruning_fn(pruning_fn):
            return "in"
        raise GroupError(f"{pruning_fn!r} is no function of this graph; use tp.prune_conv_out_channels or alike.")

    def _group_by_units(self, module: Any, function: UnitFunction, idxs: list[int]) -> DataFlowGroup:
        left = [self.units_left(coupling) for coupling in function.couplings]
        total = sum(map(len, left))
        check_range(idxs, total, f"the coupling of '{function.couplings[0].name}'", "units")
        chosen, start = [], 0
        for coupling, own in zip(function.couplings, left, strict=True):
            named = own[[i - start for i in idxs if start <= i < start + len(own)]]
            chosen += [(coupling, named)] if len(named) else []
            start += len(own)
        couplings, units = zip(*chosen, strict=True)
        return DataFlowGroup(self, couplings, units, self._places.root_of(couplings[0], module))

    def _group_by_channels(self, module: Any, side: Side, idxs: list[int]) -> DataFlowGroup:
        root = self._places.requested(module, side)
        removed = self.coupling_map.channels.removed
        alive = root.axis.channels[~removed[root.axis.channels]]
        where = f"'{self.name_of(module)}'"
        check_range(idxs, len(alive), where, "inputs" if side == "in" else "outputs")
        channels = alive[idxs]
        numbers = list(dict.fromkeys(self._coupling_of[channels].tolist()))
        for number in numbers:
            reason = "is not a channel" if number < 0 else self.couplings[number].protected
            if reason is not None:
                raise GroupError(f"Channels of {where} must stay: {reason}. Leave that layer's {side}puts alone.")
        couplings = [self.couplings[number] for number in numbers]
        units = [
            torch.tensor(list(dict.fromkeys(self._unit_of[channels[self._coupling_of[channels] == number]].tolist())))
            for number in numbers
        ]
        return DataFlowGroup(self, couplings, units, root)

    def check_pruning_group(self, group: DataFlowGroup) -> bool:
        """Tell whether every coupling of a group would keep a unit."""
        pairs = zip(group.couplings, group.units, strict=True)
        return all(len(own) < len(self.units_left(coupling)) for coupling, own in pairs)

    def protection_of(self, coupling: DataFlowCoupling) -> str | None:
        """Return why a coupling is protected by now, or None if it is not."""
        return self.couplings[int(self._coupling_of[coupling.blocks[0, 0]])].protected

    def prune_together(self, groups: Sequence[DataFlowGroup], record_history: bool = True) -> None:
        """Prune several groups at once: all of them, or none.

        Raises:
            GroupError: A group holds channels that were pruned after it was made, holds a whole coupling, or breaks the
                forward on trial.
            CutError: The model's forward cannot work without them; the model is unchanged.
        """
        self.probe()
        removed, entries = self.coupling_map.channels.removed.clone(), []
        for group in groups:
            group.check(removed)
            entries.append(group.history_entry(removed))
            removed[group.channels] = True
        if groups:
            cut(self.model, self.coupling_map, torch.cat([group.channels for group in groups]))
        self._pruning_history += entries if record_history else []

    def load_pruning_history(self, pruning_history: Sequence[Sequence[Any]]) -> None:
        """Repeat another graph's history as one cut, so that attributes follow that state the width of several layers.

        Raises:
            GroupError: The history is of another model; this one is unchanged.
        """
        known = self.coupling_map.channels.removed
        removed, groups = known.clone(), []
        for name, is_out, idxs in pruning_history:
            path, _, last = name.rpartition(".")
            try:
                module = getattr(self.model.get_submodule(path), last) if name else self.model
            except AttributeError:
                raise GroupError(f"The history cuts '{name}', which this model lacks; load it on a copy.") from None
            pruner = self.get_pruner_of_module(module)
            function = pruner.prune_out_channels if is_out else pruner.prune_in_channels
            own = self._places.requested(module, self._side(function)).axis.channels
            left = (~removed[own[~known[own]]]).nonzero().squeeze(1)  # where the channels of then are now
            check_range(list(idxs), len(left), f"'{name}' in the history", "channels")
            groups.append(self.get_pruning_group(module, function, left[list(idxs)]))
            removed[groups[-1].channels] = True
        self.prune_together(groups, record_history=False)
        self._pruning_history += [[name, is_out, list(idxs)] for name, is_out, idxs in pruning_history]
