"""The model that is pruned, with everything that pruning needs to know about it, and copies of it to score and measure."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from dfpc_plugin.cost import CostModel
from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.couplings.channels import Channels
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.host import DataFlowGraph
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.pruning.settings import PruneSettings
from dfpc_plugin.surgery import cut


@dataclass(frozen=True)
class PrunableModel:
    """A model's graph, its example inputs, how to call it (`forward_fn`), and what may be pruned."""

    graph: DataFlowGraph
    inputs: ExampleInputs
    forward_fn: ForwardFunction | None
    settings: PruneSettings

    def removed_with(self, channels: Tensor) -> Tensor:
        """Which channels are removed when some more (their numbers) are, `(channels,)` of bool."""
        removed = self.channels.removed.clone()
        removed[channels] = True
        return removed

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.graph.model

    @property
    def channels(self) -> Channels:
        """The model's channels."""
        return self.graph.coupling_map.channels

    @cached_property
    def costs(self) -> CostModel:
        """The model's costs by channels."""
        return CostModel(self.channels)

    def copy_without(self, channels: Tensor) -> nn.Module:
        """Return a copy without some channels (their numbers), in evaluation mode."""
        return pruned_copy(self.model, self.graph.coupling_map, channels).eval()


def copy_of(model: nn.Module) -> nn.Module:
    """Copy a model with its gradients, which some importances use.

    Weights computed by a hook are copied as values, as torch cannot copy tensors with a gradient history.
    """
    with exclusive(model):
        attributes = (value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor))
        computed = {id(value): value.detach().clone() for value in attributes if not value.is_leaf}
        result = copy.deepcopy(model, computed)
        for own, other in zip(model.parameters(), result.parameters(), strict=True):
            other.grad = None if own.grad is None else own.grad.clone()
        return result


def pruned_copy(model: nn.Module, couplings: CouplingMap, channels: Tensor) -> nn.Module:
    """Return a copy of `model` without `channels` (their numbers), or raise CutError; `couplings` is not changed."""
    result = copy_of(model)
    cut(result, couplings.copy(), channels)
    return result
