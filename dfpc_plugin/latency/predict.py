"""Predict the latency of a pruned model, by interpolating between layers measured at a few widths.

Latency does not fall in proportion to MACs: narrow layers use hardware less efficiently, widths that do not fill whole
vectors cost as much as the next multiple or more, and operations that move data (norms, activations, additions) also
take time. So every kind of layer is timed by itself, on inputs of its shape, at a grid of widths. The rest of the
model's time is assumed to be proportional to the number of activations. This is accurate enough to choose channels; the
result is measured again.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfpc_plugin.couplings.channels import Axis, Channels
from dfpc_plugin.eager import running_eagerly
from dfpc_plugin.inputs import ExampleInputs, as_call, fresh
from dfpc_plugin.interrupts import undone
from dfpc_plugin.latency.measure import LatencySettings
from dfpc_plugin.latency.turns import timer_class
from dfpc_plugin.preserve import evaluating, watched

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_GEOMETRY = ("kernel_size", "stride", "padding", "dilation")
_SHARES = (0.3, 0.6, 1.0)
FAST_MULTIPLE = 8
"""Runtimes are fast with widths that are multiples of this."""
_SECONDS, _REPEATS = 0.01, 3
"""Seconds to time a layer at each pair of widths, and the number of repeats, of which the fastest counts."""


@dataclass(frozen=True)
class _Kind:
    """Layers of equal kind take equally long."""

    layer: str
    inputs: int
    outputs: int
    groups: int
    geometry: tuple[Any, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Table:
    """Seconds of a kind of layer at a grid of widths.

    Attributes:
        inputs: Input widths, ascending; one for a depthwise convolution.
        outputs: Output widths, ascending.
        seconds: Indexed by input width, then by output width.
        odd: Slowdown of a width that is not a multiple of `FAST_MULTIPLE`, relative to the next multiple; at least 1.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    odd: float

    def at(self, inputs: int, outputs: int) -> float:
        whole = [_up(inputs) if len(self.inputs) > 1 else self.inputs[0], _up(outputs)]
        uneven = (inputs % FAST_MULTIPLE and len(self.inputs) > 1) or outputs % FAST_MULTIPLE
        rows = [_interpolated(self.outputs, row, whole[1]) for row in self.seconds]
        return _interpolated(self.inputs, rows, whole[0]) * (self.odd if uneven else 1.0)


@dataclass(frozen=True)
class _Layer:
    """A layer's calls: the channels that its widths count, and how long it takes."""

    table: _Table
    calls: int
    inputs: Tensor | int
    outputs: Tensor | int
    full: int
    activations: int

    def widths(self, alive: Tensor) -> tuple[int, int]:
        """Numbers of remaining input and output channels."""
        left = [side if isinstance(side, int) else int(alive[side].sum()) for side in (self.inputs, self.outputs)]
        return left[0], left[1]


class LatencyModel:
    """Predicts the seconds of one forward with some channels removed.

    Layers are timed in PyTorch. For another runtime, all predictions are scaled by the ratio of the whole model's times
    in the two; the channels chosen by them are then measured in that runtime.

    Attributes:
        full: Measured seconds of one forward of the unpruned model.
        prepared: What the runtime calls instead of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        channels: Channels,
        settings: LatencySettings,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Time the layers of `model`, which is not changed; `settings` are those of the final measurement."""
        inputs = settings.batched(example_inputs)
        self.prepared = settings.prepared(model, example_inputs)
        self.full = settings.measure({"model": self.prepared}, example_inputs)["model"].median
        in_torch = self.full
        if settings.runtime != "torch":
            plain = dataclasses.replace(settings, runtime="torch")
            in_torch = plain.measure({"model": model}, example_inputs)["model"].median
        self._scale = self.full / in_torch
        axes = {(axis.tensor, axis.dim): axis for axis in channels.axes}
        tables: dict[_Kind, _Table] = {}
        self._layers: list[_Layer] = []
        with _threads(settings.used_threads), evaluating(model), torch.inference_mode():
            calls = _calls(model, inputs)
            for number, (path, module, shape, count, produced) in enumerate(calls):
                kind = _kind(module, shape)
                if kind not in tables:
                    tables[kind] = _measured(module, kind)
                self._layers.append(_layer(path, module, axes, tables[kind], count, produced))
                if progress is not None:
                    progress((number + 1) / len(calls))
        self._holders = _holders(self._layers)
        self._activations = sum(layer.activations for layer in self._layers)
        self._rest = 0.0
        self._rest = max(0.0, in_torch - self.seconds(torch.zeros_like(channels.removed)) / self._scale)

    def seconds(self, removed: Tensor) -> float:
        """Predict one forward without the `removed` channels, `(channels,)` of bool."""
        return self._of(self._layers, (~removed).double())

    def saving(self, removed: Tensor, channels: Tensor) -> float:
        """Predict the seconds saved by removing `channels` (their numbers) in addition to the `removed` ones."""
        numbers = {number for channel in channels.tolist() for number in self._holders.get(channel, ())}
        touched = [self._layers[number] for number in sorted(numbers)]
        alive = (~removed).double()
        before = self._of(touched, alive)
        alive[channels] = 0
        return before - self._of(touched, alive)

    def _of(self, layers: Sequence[_Layer], alive: Tensor) -> float:
        """Seconds of some layers, with their share of the time outside of layers."""
        seconds, activations = 0.0, 0.0
        for layer in layers:
            inputs, outputs = layer.widths(alive)
            seconds += layer.calls * layer.table.at(inputs, outputs)
            activations += layer.activations * outputs / layer.full
        rest = self._rest * activations / self._activations if self._activations else 0.0
        return self._scale * (seconds + rest)


def _holders(layers: Sequence[_Layer]) -> dict[int, list[int]]:
    """The numbers of the layers that read or write each channel."""
    found: dict[int, list[int]] = defaultdict(list)
    for number, layer in enumerate(layers):
        sides = [side for side in (layer.inputs, layer.outputs) if isinstance(side, Tensor)]
        for channel in torch.unique(torch.cat(sides)).tolist() if sides else ():
            found[channel].append(number)
    return found


def _calls(model: nn.Module, inputs: ExampleInputs) -> list[tuple[str, Any, tuple[int, ...], int, int]]:
    """The layers that a forward calls: path, module, shape of the input, number of calls, size of the output."""
    found: dict[tuple[str, tuple[int, ...]], tuple[str, Any, tuple[int, ...], int, int]] = {}
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):

            def note(module: Any, args: Any, named: Any, output: Tensor, path: str = path) -> None:
                shape = tuple((args[0] if args else named["input"]).shape)
                count = found[path, shape][3] if (path, shape) in found else 0
                found[path, shape] = (path, module, shape, count + 1, output.numel())

            handles.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        args, kwargs = as_call(fresh(inputs))
        with running_eagerly(), watched():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _kind(module: Any, shape: tuple[int, ...]) -> _Kind:
    if isinstance(module, nn.Linear):
        return _Kind("linear", module.in_features, module.out_features, 1, (module.bias is not None,), shape)
    geometry = (*(getattr(module, name) for name in _GEOMETRY), module.padding_mode, module.bias is not None)
    return _Kind(type(module).__name__, module.in_channels, module.out_channels, module.groups, geometry, shape)


def _layer(
    path: str, module: Any, axes: dict[tuple[str, int], Axis], table: _Table, calls: int, produced: int
) -> _Layer:
    """Combine a layer's table with the channels that its widths count."""
    written, read = axes.get((f"{path}.weight", 0)), axes.get((f"{path}.weight", 1))
    outputs = module.weight.size(0) if written is None else written.channels
    inputs: Tensor | int = module.weight.size(1) * getattr(module, "groups", 1)
    if read is not None:
        inputs = read.channels
    return _Layer(table, calls, inputs, outputs, module.weight.size(0), produced * calls)


def _measured(module: Any, kind: _Kind) -> _Table:
    """Time copies of a layer at a grid of widths."""
    tied = kind.groups > 1
    inputs = (kind.inputs,) if tied else _widths(kind.inputs)
    outputs = _widths(kind.outputs)
    seconds = tuple(tuple(_time(module, kind, i, o) for o in outputs) for i in inputs)
    odd = 1.0
    middle = outputs[len(outputs) // 2]
    if not tied and middle > 2 * FAST_MULTIPLE:
        uneven = _time(module, kind, inputs[-1], middle - 3)
        odd = max(1.0, uneven / seconds[-1][len(outputs) // 2])
    return _Table(inputs, outputs, seconds, odd)


def _time(module: Any, kind: _Kind, inputs: int, outputs: int) -> float:
    """Seconds of one call at given widths."""
    weight = module.weight
    options = {"device": weight.device, "dtype": weight.dtype, "bias": module.bias is not None}
    shape = list(kind.shape)
    if kind.layer == "linear":
        layer: nn.Module = nn.Linear(inputs, outputs, **options)
        shape[-1] = inputs
    else:
        each = max(1, kind.outputs // kind.groups)
        groups = max(1, outputs // each) if kind.groups > 1 else 1
        wide = groups * (kind.inputs // kind.groups) if kind.groups > 1 else inputs
        plain = next(kind for kind in _CONVOLUTIONS if isinstance(module, kind))  # also of subclasses
        geometry = {name: getattr(module, name) for name in _GEOMETRY}
        layer = plain(wide, groups * each if kind.groups > 1 else outputs, groups=groups, **geometry, **options)
        shape[-len(module.kernel_size) - 1] = wide
    x = torch.ones(shape, device=weight.device, dtype=weight.dtype)
    timer = timer_class()("layer(x)", globals={"layer": layer, "x": x}, num_threads=torch.get_num_threads())
    once = timer.timeit(1).mean
    calls = max(1, math.ceil(_SECONDS / _REPEATS / once))
    return min(once, *(timer.timeit(calls).mean for _ in range(_REPEATS)))


def _widths(full: int) -> tuple[int, ...]:
    """The widths to measure: multiples of `FAST_MULTIPLE`, and the full width."""
    return tuple(sorted({min(full, _up(math.ceil(full * share))) for share in _SHARES}))


def _up(width: int) -> int:
    return -(-width // FAST_MULTIPLE) * FAST_MULTIPLE


def _interpolated(at: Sequence[int], values: Sequence[float], x: int) -> float:
    """Piecewise linear; below the first point proportional, but at least a quarter, and constant above the last."""
    if x >= at[-1]:
        return values[-1]
    if x <= at[0]:
        return values[0] * max(0.25, x / at[0])
    right = bisect.bisect_left(at, x)
    share = (x - at[right - 1]) / (at[right] - at[right - 1])
    return values[right - 1] * (1 - share) + values[right] * share


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set PyTorch's number of threads for a while."""
    before = torch.get_num_threads()
    with undone(lambda: torch.set_num_threads(before)):
        torch.set_num_threads(count)
        yield
