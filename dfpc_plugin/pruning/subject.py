"""The model that is pruned, with all that is known about it."""

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

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """What is pruned, and how.

    Attributes:
        graph: The graph of the model.
        inputs: What the model is called with.
        forward_fn: How, if not plainly.
        settings: What may be pruned.
        costs: What channels cost.
    """

    graph: DataFlowGraph
    inputs: ExampleInputs
    forward_fn: ForwardFunction | None
    settings: PruneSettings
    costs: CostModel

    def removed_with(self, channels: Tensor) -> Tensor:
        """Which channels are removed when some (their numbers) are removed too, `(channels,)` of bool."""
        removed = self.channels.removed.clone()
        removed[channels] = True
        return removed

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.graph.model

    @property
    def channels(self) -> Channels:
        """What is known about its channels."""
        return self.graph.coupling_map.channels

    def copy_without(self, channels: Tensor) -> nn.Module:
        """A copy without some channels (their numbers), in evaluation mode."""
        return pruned_copy(self.model, self.graph.coupling_map, channels).eval()
