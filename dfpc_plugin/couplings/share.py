"""The share of a model that lies in couplings that can be pruned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from dfpc_plugin.couplings.channels import Axis
from dfpc_plugin.couplings.find import CouplingMap


def prunable_share(coupling_map: CouplingMap) -> tuple[float, float]:
    """Return the shares (0 to 1) of the unpruned model's MACs and parameters in couplings that can be pruned.

    A layer counts as a whole if some of its channels lie in a coupling that is not protected. Of a parameter, only elements
    that belong to some unit count, each once.

    Args:
        coupling_map: From `map_couplings`.
    """
    channels = coupling_map.channels
    free = torch.zeros(channels.removed.shape, dtype=torch.bool, device="cpu")
    for coupling in coupling_map.couplings:
        if coupling.protected is None:
            free[coupling.blocks] = True
    axes: dict[str, list[Axis]] = defaultdict(list)
    for axis in channels.axes:
        axes[axis.tensor].append(axis)
    # A parameter with several names is listed once, by its first name, in both tables.
    parameters = channels.parameters
    touched = sum(_touched(shape, axes[name], free) for name, shape in parameters.items())
    worked = sum(layer.macs for layer in channels.layers if free[layer.channels].any())
    macs = _share(worked, sum(layer.macs for layer in channels.layers))
    return macs, _share(touched, sum(shape.numel() for shape in parameters.values()))


def _touched(shape: torch.Size, axes: Iterable[Axis], free: Tensor) -> int:
    """Count the elements of a parameter that belong to some channel of `free`."""
    touched = torch.zeros(shape, dtype=torch.bool, device="cpu")
    for axis in axes:
        goes = free[axis.channels]
        if not goes.any():
            continue
        laid_out = [1] * len(shape)
        laid_out[axis.dim] = shape[axis.dim]
        if axis.groups > 1:  # each group's rows have their own inputs
            laid_out[0] = shape[0]
            goes = goes.view(axis.groups, -1).repeat_interleave(shape[0] // axis.groups, 0)
        touched |= goes.view(laid_out)
    return int(touched.sum())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
