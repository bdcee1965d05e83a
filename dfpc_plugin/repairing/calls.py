"""Calls of convolutions and linear layers, as products with rows of their inputs.

Every such layer computes an output from one *row* of inputs: `y[p, g] = W[g] x[p, g] + b`, where `p` is a position (of
an image, or a token), `g` a group of channels, and the row holds what the kernel sees there. Least squares needs these
rows. This module extracts them at given positions, without unfolding the whole input.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfpc_plugin.errors import RepairError
from dfpc_plugin.ops.geometry import padding_sides, spell_out
from dfpc_plugin.tracing.names import ModelNames
from dfpc_plugin.tracing.operator import forms


@dataclass(eq=False)
class LayerCall:
    """One call of a layer: `function(input, weight, bias, **options)`.

    Attributes:
        name: The layer: the path of its weight without '.weight'.
        function: The function that was called.
        input: The input tensor.
        weight: A parameter or a part of one; repair writes to it.
        bias: The bias, or None.
        bias_is_free: The bias is a parameter, or a part of one, and may be written to.
        options: Stride and the like, by the function's own names.
        rows_of: The rows of the weight that this call uses: all, or one of several matrices stored in one weight.
        weight_axis: The axis of the weight that holds output channels.
    """

    name: str
    function: Callable[..., Tensor]
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    bias_is_free: bool
    options: dict[str, Any]
    rows_of: slice
    weight_axis: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Raise RepairError if the weight is complex; least squares needs real numbers."""
        if self.weight.is_complex():
            raise RepairError(
                f"'{self.name}' has a weight of complex numbers, which cannot be repaired; prune without repair."
            )

    def run(self) -> Tensor:
        """Call the function (again)."""
        return self.function(self.input, self.weight, self.bias, **self.options)

    @property
    def groups(self) -> int:
        """Number of groups of channels."""
        return int(self.options.get("groups", 1))

    @property
    def channel_axis(self) -> int:
        """The channel axis of the input and the output."""
        return 1 - self.weight.dim()

    @property
    def matrix(self) -> Tensor:
        """The weight as `(groups, outputs of a group, entries of a row)`, float64."""
        return self.weight.detach().double().unflatten(0, (self.groups, -1)).flatten(2)

    def write(self, matrix: Tensor) -> None:
        """Overwrite the weight with values laid out as in `matrix`."""
        self.weight.data.copy_(matrix.reshape(self.weight.shape))

    def positions(self, output: Tensor) -> int:
        """Number of rows."""
        return output.numel() // max(1, output.shape[self.channel_axis])

    def rows(self, positions: Tensor) -> Tensor:
        """Rows at some positions: `(positions, groups, entries of a row)`, float32 or wider."""
        return _wide(self.input.reshape(-1, self.input.shape[-1])[positions])[:, None]

    def outputs(self, output: Tensor, positions: Tensor) -> Tensor:
        """Some positions of a tensor laid out as the layer's output: `(positions, groups, outputs of a group)`."""
        flat = output.movedim(self.channel_axis, -1)
        channels = flat.shape[-1]
        if flat.dim() == 1:
            flat = flat[None]
        index = torch.unravel_index(positions, flat.shape[:-1])
        return _wide(flat[index]).view(len(positions), self.groups, channels // self.groups)

    def constant_rows(self, values: Tensor) -> Tensor:
        """The mean row over positions if each input channel is constant: `(groups, entries)`.

        It depends on padding: at the borders of an image, some entries of the kernel see zeros.
        """
        return self.by_entry(values.double())

    def by_entry(self, values: Tensor) -> Tensor:
        """Repeat one value per input channel, `(channels,)`, for every entry of a row: `(groups, entries)`."""
        return values[:, None].expand(-1, self.taps()).reshape(self.groups, -1)

    def taps(self) -> int:
        """Number of entries of a row that belong to one channel."""
        return math.prod(self.weight.shape[2:])


class _Convolution(LayerCall):
    """A convolution over one, two or three axes."""

    @property
    def _axes(self) -> int:
        return self.weight.dim() - 2

    def constant_rows(self, values: Tensor) -> Tensor:
        ones = self.input.new_ones(1, 1, *self.input.shape[-self._axes :], dtype=torch.float64)
        seen = self._windows(ones).mean(tuple(range(2 + self._axes))).flatten()
        return self.by_entry(values.double()) * seen.repeat(self.input.shape[self.channel_axis] // self.groups)

    def _windows(self, data: Tensor) -> Tensor:
        """A view of padded data: `(images, *positions, channels, *kernel)`."""
        axes, kernel = self._axes, self.weight.shape[2:]
        dilation = spell_out(self.options.get("dilation", 1), axes)
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = padding_sides(self.options.get("padding", 0), reach)
        return _windows(data, kernel, spell_out(self.options.get("stride", 1), axes), dilation, sides)

    def rows(self, positions: Tensor) -> Tensor:
        windows = self._windows(self.input)
        index = torch.unravel_index(positions, windows.shape[: 1 + self._axes])
        return _wide(windows[index]).unflatten(1, (self.groups, -1)).flatten(2)


class _Transposed(_Convolution):
    """A transposed convolution: a plain one of stride one over the input with zeros between its entries."""

    weight_axis = 1

    @property
    def matrix(self) -> Tensor:
        weight = self.weight.detach().double().flip(list(range(2, self.weight.dim())))
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(2)

    def write(self, matrix: Tensor) -> None:
        outputs, kernel = self.weight.shape[1], self.weight.shape[2:]
        weight = matrix.reshape(self.groups, outputs, -1, *kernel).transpose(1, 2).flatten(0, 1)
        self.weight.data.copy_(weight.flip(list(range(2, weight.dim()))))

    def _windows(self, data: Tensor) -> Tensor:
        axes, kernel = self._axes, self.weight.shape[2:]
        steps, dilation, padding, extra = (
            spell_out(self.options.get(name, default), axes)
            for name, default in (("stride", 1), ("dilation", 1), ("padding", 0), ("output_padding", 0))
        )
        data = data if data.dim() == axes + 2 else data[None]
        sizes = [(size - 1) * step + 1 for size, step in zip(data.shape[2:], steps, strict=True)]
        spaced = data.new_zeros(*data.shape[:2], *sizes)
        places = (slice(None), slice(None), *(slice(None, None, step) for step in steps))
        spaced[places] = data
        sides = [
            (d * (k - 1) - p, d * (k - 1) - p + e) for k, d, p, e in zip(kernel, dilation, padding, extra, strict=True)
        ]
        return _windows(spaced, kernel, (1,) * axes, dilation, sides)


def _windows(
    data: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    sides: Sequence[tuple[int, int]],
) -> Tensor:
    """The windows that a kernel sees: a view `(images, *positions, channels, *kernel)` of the padded data."""
    axes = len(kernel)
    if data.dim() == axes + 1:
        data = data[None]
    if any(side != (0, 0) for side in sides):
        data = F.pad(data, [size for side in reversed(sides) for size in side])
    for axis, (size, step, spread) in enumerate(zip(kernel, stride, dilation, strict=True)):
        data = data.unfold(2 + axis, (size - 1) * spread + 1, step)[..., ::spread]
    return data.movedim(1, 1 + axes)


_KINDS: dict[Callable[..., Any], type[LayerCall]] = {F.linear: LayerCall}
_KINDS |= dict.fromkeys(forms("conv1d", "conv2d", "conv3d"), _Convolution)
_KINDS |= dict.fromkeys(forms("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _Transposed)


def _signature(names: str) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind, default=None) for name in names.split()])


_CONVOLUTION = _signature("input weight bias stride padding dilation groups")
_TRANSPOSED = _signature("input weight bias stride padding output_padding groups dilation")
_SIGNATURES = {LayerCall: _CONVOLUTION, _Convolution: _CONVOLUTION, _Transposed: _TRANSPOSED}


def layer_call(
    function: Callable[..., Any], args: tuple, kwargs: dict[str, Any], names: ModelNames
) -> LayerCall | None:
    """Describe a call of a layer; None for other functions, and if the weight is not a parameter of the model."""
    kind = _KINDS.get(function)
    if kind is None:
        return None
    given = _SIGNATURES[kind].bind(*args, **kwargs).arguments
    data, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
    if not isinstance(weight, Tensor) or not names.owns(weight) or not _is_whole_rows(weight):
        return None
    owned = bias is not None and (isinstance(bias, nn.Parameter) or names.owns(bias))
    options = {name: value for name, value in given.items() if value is not None}
    return kind(names.layer(weight), function, data, weight, bias, owned, options, _part(weight))


def _is_whole_rows(weight: Tensor) -> bool:
    """Whether a weight is a parameter or some rows of one; if transposed or reshaped, axis zero holds no outputs."""
    base = weight._base
    whole = base is None or (base.shape[1:] == weight.shape[1:] and base.stride() == weight.stride())
    return weight.dim() > 1 and whole


def _part(weight: Tensor) -> slice:
    """The rows of its parameter that a weight is a view of."""
    base = weight._base
    if base is None or not base.stride(0):
        return slice(None)
    start = (weight.storage_offset() - base.storage_offset()) // base.stride(0)
    return slice(start, start + weight.shape[0])


def _wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    tensor = tensor.detach()
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
