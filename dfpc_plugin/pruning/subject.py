"""The model that is pruned, with everything that pruning needs to know about it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dfpc_plugin.cost import CostModel
from dfpc_plugin.couplings.channels import Channels
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.host import DataFlowGraph
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.pruning.settings import PruneSettings
from dfpc_plugin.pruning.trial import pruned_copy


@dataclass(frozen=True)
class Subject:
    """A model's graph and costs, its example inputs, how to call it (`forward_fn`), and what may be pruned."""

    graph: DataFlowGraph
    inputs: ExampleInputs
    forward_fn: ForwardFunction | None
    settings: PruneSettings
    costs: CostModel

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

    def copy_without(self, channels: Tensor) -> nn.Module:
        """Return a copy without some channels (their numbers), in evaluation mode."""
        return pruned_copy(self.model, self.graph.coupling_map, channels).eval()
