"""Units of couplings: which remain, and their positions in the present tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.couplings import DataFlowCoupling
from dfpc_plugin.couplings.channels import Axis


class UnitFunction:
    """A pruning `function` of Torch-Pruning that counts units of `couplings`, one after the other, not channels.

    It is equal to the function itself, so code that looks for the function finds it.
    """

    def __init__(self, function: Callable[..., Any], couplings: tuple[DataFlowCoupling, ...]) -> None:
        """Count units of `couplings`."""
        self.function = function
        self.couplings = couplings
        self.__name__: str = function.__name__
        self.__self__: Any = getattr(function, "__self__", None)

    def __call__(self, layer: Any, idxs: list[int]) -> Any:
        """Apply the function to the layer alone."""
        return self.function(layer, idxs)

    def __eq__(self, other: object) -> bool:
        """Tell whether `other` is the function or another `UnitFunction` of it."""
        return self.function == (other.function if isinstance(other, UnitFunction) else other)

    def __hash__(self) -> int:
        """Return the function's hash."""
        return hash(self.function)

    def __repr__(self) -> str:
        """Name the function and the couplings."""
        return f"{self.__name__} by units of {', '.join(coupling.name for coupling in self.couplings)}"


def units_left(coupling: DataFlowCoupling, removed: Tensor) -> Tensor:
    """Return the columns of `coupling.blocks` that have not been pruned, in order."""
    return (~removed[coupling.blocks]).all(0).nonzero().squeeze(1)


def positions(axis: Axis, channels: Tensor, removed: Tensor) -> Tensor:
    """Find the positions of units along a dimension of the present model.

    Args:
        axis: The dimension.
        channels: `(blocks, units)` numbers of remaining channels.
        removed: Which channels have been pruned.

    Returns:
        `(units, indices per unit)`, each row in ascending order; no columns if the dimension holds none of them.
    """
    unit = torch.full(removed.shape, -1)
    unit[channels] = torch.arange(channels.size(1)).expand(channels.shape)
    of = unit[axis.channels[~removed[axis.channels]]]
    found = (of >= 0).nonzero().squeeze(1)
    return found[torch.argsort(of[found], stable=True)].view(channels.size(1), -1)
