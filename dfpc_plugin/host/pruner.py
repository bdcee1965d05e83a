"""Torch-Pruning's pruner on couplings found by data flow."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning import ops
from torch_pruning.pruner.algorithms import base_pruner

from dfpc_plugin.arguments import checks_arguments
from dfpc_plugin.cost import CostModel
from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.criteria import Importance, as_importance, require_gradients
from dfpc_plugin.errors import DFPCError, NothingToPruneError, PrunerSettingError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.host.checks import DEFAULT_RATIO, check_options, ignored_modules, parsed_target
from dfpc_plugin.host.graph import DataFlowGraph
from dfpc_plugin.host.group import DataFlowGroup
from dfpc_plugin.importance import DFPCImportance, unchanged
from dfpc_plugin.inputs import ExampleInputs, as_inputs
from dfpc_plugin.plain_data import Share, checked
from dfpc_plugin.selection import Candidate, Order, Target, by_saliency, keep_at_least, length_for_budgets
from dfpc_plugin.wrappers import HoldsModel, plain_model


class DFPCPruner(tp.pruner.BasePruner):
    """Prune any model that `find_couplings` can follow, with Torch-Pruning's pruner interface.

    Takes the arguments of `tp.pruner.BasePruner`, in the same order, and has the same methods. Differences:

    - Groups are couplings found by data flow, so models that Torch-Pruning cannot trace are pruned, too.
    - Ratios and scores refer to *units*, the least that can be pruned: one channel, or one of every attention head or
      convolution group. `num_heads` and channel groups need not be given.
    - A coupling keeps at least one unit and two channels, however low its scores; others lose more instead.
    - `ignored_layers` may also hold names and shell-style patterns.
    - A step prunes everything at once, or raises and leaves the model unchanged.
    - `round_to` refers to units, too: every head and every group of a convolution keeps a multiple.
    - With `prune_num_heads=True, prune_head_dims=False`, attention loses whole heads, by `head_pruning_ratio` if it is given,
      else by `pruning_ratio`.
    """

    DG: DataFlowGraph

    @checks_arguments
    def __init__(
        self,
        model: nn.Module | HoldsModel,
        example_inputs: ExampleInputs,
        importance: Importance | type | str,
        global_pruning: bool = False,
        pruning_ratio: float = DEFAULT_RATIO,
        pruning_ratio_dict: Mapping[Any, float] | None = None,
        max_pruning_ratio: float = 1.0,
        iterative_steps: int = 1,
        iterative_pruning_ratio_scheduler: Callable[[float, int], Sequence[float]] = base_pruner.linear_scheduler,
        ignored_layers: Iterable[Any] | None = None,
        round_to: int | None = None,
        isomorphic: bool = False,
        in_channel_groups: Mapping[nn.Module, int] | None = None,
        out_channel_groups: Mapping[nn.Module, int] | None = None,
        num_heads: Mapping[nn.Module, int] | None = None,
        prune_num_heads: bool = False,
        prune_head_dims: bool = True,
        head_pruning_ratio: float = 0.0,
        head_pruning_ratio_dict: Mapping[nn.Module, float] | None = None,
        customized_pruners: Mapping[Any, Any] | None = None,
        unwrapped_parameters: Any = None,
        root_module_types: Sequence[type] = (ops.TORCH_CONV, ops.TORCH_LINEAR, ops.TORCH_LSTM),
        forward_fn: ForwardFunction | None = None,
        output_transform: Callable[..., Any] | None = None,
        channel_groups: Mapping[nn.Module, int] | None = None,
        ch_sparsity: float | None = None,
        ch_sparsity_dict: Mapping[Any, float] | None = None,
        *,
        target: str | Target | None = None,
    ) -> None:
        """Find the couplings of `model`, and the number of units that each will lose.

        All arguments are Torch-Pruning's, except `target`: a budget such as "macs=0.5" instead of a ratio. The last of the
        `iterative_steps` reaches it, with one ranking of all units.

        Raises:
            NothingToPruneError: No coupling can be pruned.
            PrunerSettingError: A setting is not possible.
            TargetError: The target is invalid.
            DFPCError: As `find_couplings` raises.
        """
        model, example_inputs = plain_model(model, inplace=True), as_inputs(example_inputs)
        importance = as_importance(importance) or DFPCImportance()
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__", "target")}
        self._target = parsed_target(target, arguments)
        check_options(arguments)
        for name in ("in_channel_groups", "out_channel_groups", "num_heads", "channel_groups"):
            arguments[name] = dict(arguments[name] or {})  # Torch-Pruning writes into these
        arguments["ignored_layers"] = ignored_modules(model, ignored_layers or ())
        _init_with_graph(self, functools.partial(DataFlowGraph, whole_heads=prune_num_heads, probe=False), **arguments)
        if next(self._groups_to_rank(), None) is None:
            raise NothingToPruneError(_why_nothing(self.DG))

    @property
    def graph(self) -> DataFlowGraph:
        """The graph, `DG` in Torch-Pruning."""
        return self.DG

    @property
    def couplings(self) -> list[DataFlowCoupling]:
        """All couplings of the model, protected ones included; they are pruned on trial if not done yet."""
        self.DG.probe()
        return self.DG.couplings

    def step(self, interactive: bool = False) -> Iterator[DataFlowGroup] | None:
        """Prune one step: all couplings at once, or, if `interactive`, yield the groups for the caller to prune.

        Raises:
            CutError: The forward cannot work without these channels; the model is as before the step.
        """
        self.current_step += 1
        if interactive:
            return self._prune()
        try:
            self.DG.prune_together(list(self._prune()))
        except BaseException:
            self.current_step -= 1
            raise
        return None

    def estimate_importance(self, group: DataFlowGroup) -> Any:
        """Score a group.

        Raises:
            PrunerSettingError: The importance reads gradients, and there are none.
        """
        require_gradients(self.importance, group)
        return super().estimate_importance(group)

    def manual_prune_width(
        self, layer: nn.Module, pruning_fn: Callable[..., Any], pruning_ratios_or_idxs: float | Iterable[int]
    ) -> None:
        """Prune one side of a layer, with everything coupled to it.

        Args:
            layer: A layer of the model.
            pruning_fn: Torch-Pruning's function for one of its sides.
            pruning_ratios_or_idxs: The share of its units to prune, those with the lowest scores; or channels by index.
        """
        if not isinstance(pruning_ratios_or_idxs, float):
            self.DG.get_pruning_group(layer, pruning_fn, pruning_ratios_or_idxs).prune()
            return
        checked(Share, pruning_ratios_or_idxs, "pruning_ratios_or_idxs", PrunerSettingError)
        self.DG.probe()
        count = self.DG.count_channels(layer, pruning_fn)
        group = self.DG.get_pruning_group(layer, pruning_fn, range(count))
        scores = self.estimate_importance(group)
        if scores is not None:
            cut = min(int(len(scores) * pruning_ratios_or_idxs + 1e-9), len(scores) - 1)
            if cut:
                group.prune(torch.argsort(scores, stable=True)[:cut].tolist())

    def _get_channel_groups(self, group: DataFlowGroup) -> int:
        """Return one: units already hold a channel of every group."""
        return 1

    def _groups_to_rank(self) -> Iterator[DataFlowGroup]:
        for group in self.DG.get_all_groups(self.ignored_layers, self.root_module_types):
            is_attention = self._is_atten_group(group)[0] and not group.couplings[0].whole_heads
            if self.prune_head_dims or not is_attention:
                yield group

    @torch.no_grad()
    def _prune(self) -> Iterator[DataFlowGroup]:
        if self.current_step > self.iterative_steps:
            warnings.warn("All steps of this pruner are done; no pruning will be performed.", stacklevel=4)
            return
        self.DG.probe()
        scopes: dict[Any, tuple[float, list[Candidate]]] = {}
        with unchanged(self.DG):
            ranked = list(self._candidates())
        if self._target is not None:
            yield from self._to_target([candidate for candidate, _ in ranked], self._target)
            return
        for candidate, group in ranked:
            scope, ratio = self._scope_of(group)
            scopes.setdefault(scope, (ratio, []))[1].append(candidate)
        for scope, (ratio, candidates) in scopes.items():
            now = sum(len(candidate.units) for candidate in candidates)
            initial = self._scope_initial_channels.setdefault(scope, now)
            order = by_saliency(candidates, self.round_to)
            yield from self._groups_of(order, max(0, now - int(initial * (1 - ratio) + 1e-9)))

    def _to_target(self, candidates: list[Candidate], target: Target) -> Iterator[DataFlowGroup]:
        """Yield the groups to prune in this step on the way to the target."""
        if not candidates:
            raise NothingToPruneError(_why_nothing(self.DG))
        removed = self.DG.coupling_map.channels.removed
        left = sum(len(candidate.units) for candidate in candidates)
        gone = self._scope_initial_channels.setdefault("all", left) - left
        order, costs = by_saliency(candidates, self.round_to), CostModel(self.DG.coupling_map.channels)
        part = target.part(min(1.0, self.current_step / self.iterative_steps))
        yield from self._groups_of(order, length_for_budgets(order, costs, removed, part, gone))

    def _groups_of(self, order: Order, length: int) -> Iterator[DataFlowGroup]:
        for candidate, count in zip(order.candidates, order.counts(length), strict=True):
            if count:
                yield self.DG.group_of(candidate.coupling, candidate.units[:count])

    def _candidates(self) -> Iterator[tuple[Candidate, DataFlowGroup]]:
        """Yield every coupling that may lose units and has scores, with the group of all its units."""
        for group in self._groups_to_rank():
            scores = self.estimate_importance(group)
            if scores is not None:
                (coupling,), (units,) = group.couplings, group.units
                keep = keep_at_least(coupling, self.max_pruning_ratio)
                yield Candidate.ranked(coupling, units, scores, keep), group

    def _scope_of(self, group: DataFlowGroup) -> tuple[Any, float]:
        """The scope in which a coupling is ranked, and its ratio."""
        own = ("coupling", id(group.couplings[0]))
        for item in group.items:
            module = item.dep.target.module
            if module in self._layer_to_scope and self.DG.is_out_channel_pruning_fn(item.dep.handler):
                scope = self._layer_to_scope[module][0] if self.global_pruning else own
                return scope, self.get_target_pruning_ratio(module)
        ratios = self.per_step_pruning_ratio
        if group.couplings[0].whole_heads and self.head_pruning_ratio:
            ratios = self.per_step_head_pruning_ratio
            return ("heads" if self.global_pruning else own), min(ratios[self.current_step], 1.0)
        ratio = min(ratios[self.current_step], self.max_pruning_ratio)
        if self.isomorphic:
            is_out = self.DG.is_out_channel_pruning_fn
            return tuple((item.dep.target.module_class, is_out(item.dep.handler)) for item in group.items), ratio
        return ("all" if self.global_pruning else own), ratio


def _why_nothing(graph: DataFlowGraph) -> str:
    if any(coupling.protected is None for coupling in graph.couplings):
        return "Every coupling that could be pruned holds an ignored layer or has no root layer; ignore fewer layers."
    reasons = [f"'{c.name}' ({c.protected})" for c in graph.couplings[:3]]
    return f"No coupling of this model can be pruned: {', '.join(reasons) or 'it has no layers'}; see find_couplings."


def _init_with_graph(pruner: Any, graph: Callable[[], DataFlowGraph], **arguments: Any) -> None:
    """Run `BasePruner.__init__` with `graph`, which makes an empty graph, in place of Torch-Pruning's own graph class.

    No argument or method can replace the graph that the constructor makes. Replacing it afterwards would fail for models that
    Torch-Pruning cannot trace, and a copy of the constructor would break with new versions. So its own code runs with one
    global name bound to another graph; Torch-Pruning's module is not changed. Raises DFPCError for a version that builds its
    graph in another way.
    """
    init = base_pruner.BasePruner.__init__
    here = types.SimpleNamespace(DependencyGraph=graph)
    names = {**init.__globals__, "dependency": here, "DependencyGraph": graph}
    own = types.FunctionType(init.__code__, names, init.__name__, init.__defaults__)
    own.__kwdefaults__ = init.__kwdefaults__
    own(pruner, **arguments)
    if not isinstance(pruner.DG, DataFlowGraph):
        raise DFPCError("This version of Torch-Pruning builds its graph in another way; install torch-pruning 1.6.")


class _Regularising(DFPCPruner):
    """For pruners with a `regularize` method, which index weights by the items of `_groups`."""

    @property
    def _groups(self) -> list[DataFlowGroup]:
        return self._own_groups

    @_groups.setter
    def _groups(self, groups: Iterable[DataFlowGroup]) -> None:
        self._own_groups = [group.by_weight() for group in groups]


def with_data_flow(pruner_class: type[tp.pruner.BasePruner]) -> type[DFPCPruner]:
    """Make another pruner of Torch-Pruning, such as `tp.pruner.GroupNormPruner`, work on couplings found by data flow.

    Returns:
        A subclass of `pruner_class` and of `DFPCPruner` that takes the arguments of `pruner_class`.
    """
    if issubclass(pruner_class, DFPCPruner):
        return pruner_class
    if issubclass(DFPCPruner, pruner_class):  # `tp.MetaPruner`, which `tp.pruner.MagnitudePruner` is, too
        return DFPCPruner
    # In this order the pruner's own constructor runs first, and its super() is DFPCPruner.
    bases = (pruner_class, _Regularising)
    return type(f"DataFlow{pruner_class.__name__}", bases, {"__doc__": pruner_class.__doc__})
