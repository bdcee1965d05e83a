"""Bounds, or variances and means, carried through a forward by the rule of every operator.

For BGSC, each element has a bound on its absolute change. In a pass over expected errors it has a variance instead: weights
act by their squares, and `moments` adds means. The output of a layer that begins a coupling is a leaf of the autograd graph,
and the total of a layer that ends one is noted, so one backward pass gives every channel's share in every total.

In a pass to the outputs, a layer's output variance is a function of its input's, so one backward pass gives every channel's
share in the variance of the model's outputs.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dfpc_plugin.analyses.curves import Curve, curve_of, lipschitz_constant
from dfpc_plugin.analyses.moments import through_function, with_moments
from dfpc_plugin.errors import DFPCError, RuleError
from dfpc_plugin.tracing.calls import Call
from dfpc_plugin.tracing.operator import function_name
from dfpc_plugin.tracing.proxy import Proxy, is_data
from dfpc_plugin.tracing.traced_run import Found, TracedRun
from dfpc_plugin.tracing.tree import map_tensors

Flow = Literal["bounds", "variances", "variances to outputs"]
"""What is propagated: bounds on changes, or variances and means, from layer to layer or on to the outputs."""


@dataclass(frozen=True)
class Writer:
    """A feed-in layer's call: `u = |M_a| 1`, a leaf that everything downstream depends on.

    The leaf has bounds on the output, `(..., channels, ...)`, without the batch, and requires gradients. In a pass to the
    outputs, it has variances of the output, with the batch, as part of the graph.
    """

    name: str
    leaf: Tensor
    channel_dim: int

    def per_channel(self, values: Tensor) -> Tensor:
        """Sum values laid out like the leaf over all axes but channels, `(channels,)` float64."""
        others = [axis for axis in range(values.dim()) if axis != self.channel_dim % values.dim()]
        return values.sum(others, dtype=torch.float64) if others else values.double()


@dataclass(frozen=True)
class Reader:
    """A feed-out layer's call: `total = sum(|M_b| x)`, a scalar connected to the leaves of the `sources` that reach it.

    The total is the sum over all outputs, positions and examples.
    """

    name: str
    total: Tensor
    sources: frozenset[str]


class Bounds:
    """Carries bounds, or variances and means (if `expected`), and collects the layers that read and write couplings.

    `writers` and `readers` have an entry per call of a feed-in or feed-out layer, in order. `outputs` are, in a pass to the
    outputs, the variances of what the model returns. `met` are sets of feed-in layers that one operator combined element by
    element. In a pass over expected errors, `arriving` has each layer's expected input by name (None if it is unknown), and
    `varying` its variances. `computed` is the layer that uses a weight computed from a parameter, by the parameter's path.
    """

    def __init__(self, run: TracedRun, flow: Flow = "bounds") -> None:
        """Propagate `flow` in `run`."""
        self.flow = flow
        self.expected, self.to_outputs = flow != "bounds", flow == "variances to outputs"
        self.dtype, self.names = run.dtype, run.names
        self.outputs: list[Tensor] = []
        self._shares: list[Tensor | None] | None = None
        self.writers: list[Writer] = []
        self.readers: list[Reader] = []
        self.met: list[frozenset[str]] = []
        self.arriving: dict[str, Tensor | None] = {}
        self.varying: dict[str, Tensor] = {}
        self.computed: dict[str, str] = {}
        self._widths: dict[str, int] = {}

    def apply(self, call: Call) -> Found:
        """Return the bounds of a result; raises RuleError if the rule does not support this form of the operator."""
        operator = call.operator
        for proxy in call.data:
            proxy.look_again()
        first = call.args[0] if call.args else next(iter(call.kwargs.values()), None)
        if operator.first_only and any(proxy is not first for proxy in call.data):
            problem = "it gets data in an argument that its rule takes for a constant"
            raise RuleError(function_name(call.function), self.names.caller(), problem)
        sources = frozenset().union(*[proxy.sources for proxy in call.data])
        if operator.couples and sum(bool(proxy.sources) for proxy in call.data) > 1:
            self.met.append(sources)
        with torch.enable_grad(), _full_precision(call.data[0].device):
            curve = curve_of(call)
            if curve is not None and curve.depth > 1 and len(call.data) > 1:
                found = self._on_curve(curve, sources)
                if found is not None:
                    return found
            bounds, sources = self._by_rule(call, sources)
            if not self.expected:
                return Found(bounds, sources, None, curve)
            variances, means = with_moments(call, bounds)
            return Found(variances, sources, means, curve)

    def _on_curve(self, curve: Curve, sources: frozenset[str]) -> Found | None:
        """The bounds of a written-out function of one tensor, or None if it has no Lipschitz constant."""
        root = curve.root
        slope = lipschitz_constant(curve, root.bound)
        if slope is None:
            return None
        bounds = root.bound * (slope**2 if self.expected else slope)
        if not self.expected:
            return Found(bounds, sources, None, curve)
        variances, mean = through_function(curve.function, root, lambda: bounds)
        return Found(variances, sources, mean, curve)

    def _by_rule(self, call: Call, sources: frozenset[str]) -> tuple[Any, frozenset[str]]:
        """Call the rule on plain tensors; return its result and the feed-in layers that reach it."""
        operator = call.operator
        unwrap = self._unwrap_additive if operator.additive else self._unwrap
        args, kwargs = map_tensors(unwrap, (call.args, call.kwargs))
        try:
            if not operator.context:
                return operator.bound(*args, **kwargs), sources
            context = LayerContext(self, call, sources)
            return operator.bound(context, *args, **kwargs), context.sources
        except DFPCError:
            raise
        except Exception as error:
            raise RuleError(function_name(call.function), self.names.caller(), error) from error

    def _unwrap(self, tensor: Tensor) -> Tensor:
        """Return what a rule gets: bounds of data, and weights (squared for variances) in the dtype of bounds."""
        if isinstance(tensor, Proxy):
            if tensor.holds_data:
                return tensor.bound
            assert tensor.value is not None
            tensor = tensor.value()
        tensor = tensor.detach()
        if tensor.is_complex():
            tensor = tensor.abs()
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(self.dtype)
        return tensor.square() if self.expected else tensor

    def _unwrap_additive(self, tensor: Tensor) -> Tensor:
        if is_data(tensor):
            return self._unwrap(tensor)
        return torch.zeros((), dtype=self.dtype, device=tensor.device).expand(tensor.shape)

    def layer_of(self, weight: Any) -> str:
        """Name the layer that owns a weight; a computed weight belongs to the running module."""
        name = self.names.layer(weight)
        if isinstance(weight, Proxy) and not self.names.owns(weight):
            for path in filter(None, map(self.names.path_of, weight.origins)):
                self.computed.setdefault(path, name)
        return name

    def note_arrival(self, name: str, data: Any) -> None:
        """Note a layer's expected input, or None if it differs between calls."""
        found = None
        if is_data(data):
            self.varying[name] = data.bound.detach()
            if data.expectation is not None:
                found = data.expectation.detach().expand(data.bound.shape)
        known = self.arriving.setdefault(name, found)
        if known is not found and not (known is not None and found is not None and torch.equal(known, found)):
            self.arriving[name] = None

    def free_name(self, name: str, width: int) -> str:
        """Return `name`, or `name#2` and so on if it already names a layer of another width."""
        candidates = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
        free = next(candidate for candidate in candidates if self._widths.get(candidate, width) == width)
        self._widths[free] = width
        return free

    def gradients(self, weights: list[Tensor]) -> list[Tensor | None]:
        """Backpropagate the readers' totals, each times its weight, to the writers' leaves."""
        return self._gradients([reader.total for reader in self.readers], weights)

    def output_shares(self) -> list[Tensor | None]:
        """Return the gradient of the outputs' relative variance, summed over outputs, for each writer's leaf."""
        if self._shares is None:  # the graph is freed afterwards
            with torch.inference_mode(False), torch.enable_grad():
                totals = [output.sum() for output in self.outputs if output.requires_grad]
            self._shares = self._gradients(totals, [torch.where(total > 0, 1 / total.detach(), 0) for total in totals])
        return self._shares

    def _gradients(self, totals: list[Tensor], weights: list[Tensor]) -> list[Tensor | None]:
        leaves = [writer.leaf for writer in self.writers]
        if not leaves or not totals:
            return []
        with _full_precision(leaves[0].device):
            return list(torch.autograd.grad(totals, leaves, weights, allow_unused=True))

    def totals_by_layer(self) -> dict[str, Tensor]:
        """Sum each feed-out layer's totals over its calls."""
        totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        for reader in self.readers:
            totals[reader.name] = reader.total.detach() + totals[reader.name].to(reader.total)
        return totals


class LayerContext:
    """First argument of a layer's rule.

    Attributes:
        sources: The feed-in layers that reach this point of the rule; `write` replaces them.
        arguments: The positional arguments as the model passed them.
    """

    def __init__(self, collector: Bounds, call: Call, sources: frozenset[str]) -> None:
        """Keep the original arguments: the identity of a weight names the layer."""
        self.sources = sources
        self.arguments = call.args
        self._collector, self._call = collector, call
        self._originals = call.named
        self._read: dict[frozenset[str], list[Tensor]] = {}

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
        return self._call.shapes

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

    def read(self, name: str, total: Tensor) -> None:
        """End the coupling here: layer `name` reads it, and its outputs change by at most `total` in all."""
        if self.expected:
            self._collector.note_arrival(name, self._originals.get("input"))
        self._read.setdefault(self.sources, []).append(total)
        if total.requires_grad:
            self._collector.readers.append(Reader(name, total, self.sources))

    def write(self, name: str, bound: Tensor, channel_dim: int, whole: Callable[[], Tensor] | None = None) -> Tensor:
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

    def _connected(self, leaf: Tensor, whole: Callable[[], Tensor] | None) -> Tensor:
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


def bound_dtype(model: nn.Module) -> torch.dtype:
    """Return float64 for a float64 model, else float32: half precision would overflow."""
    is_double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    return torch.float64 if is_double else torch.float32


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off on `device` if it is on, as bounds keep their own precision."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
