"""Fourier transforms: linear maps along positions, whose matrix entries all have the same magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.ops.record import keeps_entries, operator
from dfpc_plugin.tracing.axes import first_along, varying
from dfpc_plugin.tracing.operator import present

_ONE, _TWO, _MANY = (-1,), (-2, -1), None
_AXES: dict[str, tuple[int, ...] | None] = {
    "fft": _ONE, "ifft": _ONE, "rfft": _ONE, "irfft": _ONE, "hfft": _ONE, "ihfft": _ONE,
    "fft2": _TWO, "ifft2": _TWO, "rfft2": _TWO, "irfft2": _TWO, "fftn": _MANY, "ifftn": _MANY, "rfftn": _MANY, "irfftn": _MANY,
}  # fmt: skip
"""Default axes of each transform; None for all axes."""


def _transformed(name: str, rank: int, sizes: Any, dim: Any) -> list[int]:
    """The axes that a transform runs along."""
    if dim is None:
        dim = _AXES[name]
    if dim is None:
        dim = range(-len(sizes), 0) if isinstance(sizes, Sequence) else range(rank)
    return [int(axis) % rank for axis in ((dim,) if isinstance(dim, int) else dim)]


def _fourier_channels(
    call: ChannelCall, input: Any, n: Any = None, dim: Any = None, norm: Any = None, **kwargs: Any
) -> Any:
    """Protect channels along the transformed axes; keep the others."""
    sizes = kwargs.get("s", n)
    axes = _transformed(call.name.removeprefix("fft_"), input.dim(), sizes, dim)
    shapes = call.on_shapes()
    slots = []
    for slot in input.slots:
        if set(axes) & set(varying(slot)):
            call.table.freeze(slot, f"is mixed along its own axis by {call.where}")
        else:
            slots.append(first_along(slot, axes))
    return call.make(shapes.shape, slots, dtype=shapes.dtype)


def _of_one(flow: LayerContext, input: Tensor, n: Any = None, dim: Any = None, norm: Any = None) -> Tensor:
    """The sum over the axis (all matrix entries have magnitude one), divided as `norm` says."""
    return _of_several(flow, input, n, dim, norm)


def _of_several(flow: LayerContext, input: Tensor, s: Any = None, dim: Any = None, norm: Any = None) -> Tensor:
    """The sum over the axes (all matrix entries have magnitude one), divided as `norm` says."""
    name = flow.function_name.removeprefix("fft_")
    axes = _transformed(name, input.dim(), s, dim)
    out = flow.on_shapes().shape
    count = math.prod(max(out[axis], input.shape[axis]) for axis in axes)
    inverse = name.startswith("i") != (norm == "forward")
    scale = count**-0.5 if norm == "ortho" else 1 / count if inverse else 1.0
    return (input.sum(axes, keepdim=True) * scale).expand(out)


for _name in _AXES:
    _dtype = torch.float32 if _name.startswith(("irfft", "hfft")) else torch.complex64
    operator(getattr(torch.fft, _name), channels=_fourier_channels, context=True, dtypes=(_dtype,))(
        _of_one if _AXES[_name] == _ONE else _of_several
    )


@operator(
    *present("real", "imag"),
    torch.Tensor.real.__get__,  # type: ignore[attr-defined]
    torch.Tensor.imag.__get__,  # type: ignore[attr-defined]
    channels=keeps_entries,
    dtypes=(torch.float32,),
)
def part(input: Tensor) -> Tensor:
    """x: neither part is larger than the whole."""
    return input


@operator(torch.view_as_real, channels=lambda call, input: call.moved(input, _doubled), dtypes=(torch.float32,))
def parts(input: Tensor) -> Tensor:
    """x, for both parts."""
    return _doubled(input)


def _doubled(input: Tensor) -> Tensor:
    return input.unsqueeze(-1).expand(*input.shape, 2)


def _joined_channels(call: ChannelCall, input: Any) -> Any:
    """Unite the labels of the real and the imaginary part."""
    return call.moved(input, lambda slot: call.table.unite_along(slot, [slot.dim() - 1], call.where)[..., 0])


@operator(torch.view_as_complex, channels=_joined_channels, dtypes=(torch.complex64,))
def whole(input: Tensor) -> Tensor:
    """The sum over both parts."""
    return input.sum(-1)
