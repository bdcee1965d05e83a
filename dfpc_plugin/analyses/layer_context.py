"""The context of a layer's rule: it ends the coupling that reaches the layer, and starts the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from dfpc_plugin.tracing.calls import Call, on_shapes
from dfpc_plugin.tracing.names import ModelNames
from dfpc_plugin.tracing.proxy import is_data


@dataclass(frozen=True)
class Writer:
    """A feed-in layer's call: `u = |M_a| 1`, a leaf that everything downstream depends on.

    The leaf has bounds on the output, `(..., channels, ...)`, without the batch, and requires gradients. In a pass to the
    outputs, it has variances of the output, with the batch, as part of the graph.
    """

    name: str
    leaf: torch.Tensor
    channel_dim: int

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """Sum values laid out like the leaf over all axes but channels, `(channels,)` float64."""
        others = [axis for axis in range(values.dim()) if axis != self.channel_dim % values.dim()]
        return values.sum(others, dtype=torch.float64) if others else values.double()


@dataclass(frozen=True)
class Reader:
    """A feed-out layer's call: `total = sum(|M_b| x)`, a scalar connected to the leaves of the `sources` that reach it.

    The total is the sum over all outputs, positions and examples.
    """

    name: str
    total: torch.Tensor
    sources: frozenset[str]


class LayerCollector(Protocol):
    """Collects the layers that write and read couplings."""

    expected: bool
    to_outputs: bool
    names: ModelNames
    writers: list[Writer]
    readers: list[Reader]

    def note_arrival(self, name: str, data: Any) -> None:
        """Note a layer's expected input."""

    def free_name(self, name: str, width: int) -> str:
        """Return a name that no layer of another width has."""

    def layer_of(self, weight: Any) -> str:
        """Name the layer that owns a weight."""


class LayerContext:
    """First argument of a layer's rule.

    Attributes:
        sources: The feed-in layers that reach this point of the rule; `write` replaces them.
        arguments: The positional arguments as the model passed them.
    """

    def __init__(self, collector: LayerCollector, call: Call, sources: frozenset[str]) -> None:
        """Keep the original arguments: the identity of a weight names the layer."""
        self.sources = sources
        self.arguments = call.args
        self._collector, self._call = collector, call
        self._originals = call.named
        self._read: dict[frozenset[str], list[torch.Tensor]] = {}

    @property
    def function_name(self) -> str:
        """The operator's own name, such as `topk`."""
        return getattr(self._call.function, "__name__", "").strip("_")

    @property
    def caller(self) -> str:
        """Path of the module that calls the operator."""
        return self._collector.names.caller() or "the model itself"

    def on_shapes(self) -> Any:
        """Run the operator on the meta device, for shapes and dtypes."""
        return on_shapes(self._call.function, self._call.args, self._call.kwargs)

    def original(self, argument: str) -> Any:
        """Return an argument as the model passed it: a proxy for data and weights."""
        return self._originals.get(argument)

    def is_data(self, argument: str) -> bool:
        """Tell whether an argument depends on data."""
        return is_data(self.original(argument))

    def name(self, weight: str) -> str:
        """Name the layer that owns the argument called `weight`."""
        return self._collector.layer_of(self.original(weight))

    def name_of(self, weight: Any) -> str:
        """Name the layer that owns `weight`, one of the tensors that the model passed."""
        return self._collector.layer_of(weight)

    def is_parameter(self, argument: str) -> bool:
        """Tell whether an argument is one of the model's parameters (a constant table is not)."""
        return self._collector.names.owns(self.original(argument))

    @property
    def expected(self) -> bool:
        """Whether variances are propagated instead of bounds; a layer then writes the variances of its outputs."""
        return self._collector.expected

    def read(self, name: str, total: torch.Tensor) -> None:
        """End the coupling here: layer `name` reads it, and its outputs change by at most `total` in all."""
        if self.expected:
            self._collector.note_arrival(name, self._originals.get("input"))
        self._read.setdefault(self.sources, []).append(total)
        if total.requires_grad:
            self._collector.readers.append(Reader(name, total, self.sources))

    def write(
        self, name: str, bound: torch.Tensor, channel_dim: int, whole: Callable[[], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Start a coupling here: layer `name` produces `bound`, with its channels along `channel_dim`.

        The bound lacks the batch and axes along which it is equal; the rule expands the returned leaf to the output. `whole`
        applies the layer to its input, `(batch, ...)`; for a pass to the outputs.
        """
        leaf = bound.detach().requires_grad_()
        if self._collector.to_outputs:
            leaf, channel_dim = self._connected(leaf, whole), channel_dim - leaf.dim()
        name = self._collector.free_name(name, leaf.shape[channel_dim])
        self._collector.writers.append(Writer(name, leaf, channel_dim))
        self.sources = frozenset({name})
        return leaf

    def _connected(self, leaf: torch.Tensor, whole: Callable[[], torch.Tensor] | None) -> torch.Tensor:
        """Variances of a layer's output as a function of those of its inputs.

        Where the rule cannot apply the layer, the total that it read is distributed over its outputs in proportion to their
        variances.
        """
        if whole is not None:
            result = whole()
            return result if result.requires_grad else result.requires_grad_()
        totals = [total.sum() for total in self._read.pop(self.sources, []) if total.requires_grad]
        if not totals:
            return leaf
        total = torch.stack(totals).sum()
        return leaf * torch.where(total > 0, total / total.detach(), 0)
