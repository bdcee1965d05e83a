"""Views of proxies, and labels of tensors that are written in part.

An operation in place on a view changes the tensor it views. A view therefore keeps its source and the way it was taken; a
change in place is written through to the source, and a view whose source has changed is taken again when read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from dfpc_plugin.tracing.axes import canonical, squeezed, varying

__all__ = ["View", "spread_out", "written_through"]


class _Versioned(Protocol):
    """What is viewed: it counts its changes in place."""

    version: int


Source = TypeVar("Source", bound=_Versioned)


class View(Generic[Source]):
    """How a view was taken: `take` makes from anything laid out as the source what is laid out as the view."""

    def __init__(self, source: Source, take: Callable[[Tensor], Tensor], *, looked_at: bool = True) -> None:
        """Remember the viewed tensor, and how; `looked_at`: what is known of the source was taken already."""
        self.source, self.take, self.seen = source, take, source.version if looked_at else -1


def written_through(
    before: tuple[Tensor, ...], slots: tuple[Tensor, ...], positions: Tensor, shape: torch.Size
) -> tuple[Tensor, ...]:
    """Labels of a tensor of which some positions are written over."""
    changed = []
    for number, slot in enumerate(slots):
        old = before[number].expand(shape) if number < len(before) else spread_out(slot, shape)
        flat = old.reshape(-1).clone()
        flat[positions] = slot.reshape(-1)
        changed.append(canonical(flat.view(shape)))
    return tuple(changed)


def spread_out(slot: Tensor, shape: torch.Size) -> Tensor:
    """Labels of a constant that is written in part: the rest takes the channels of what is written, where it can."""
    fits = slot.dim() == len(shape) and all(slot.size(axis) == shape[axis] for axis in varying(slot))
    return squeezed(slot).expand(shape).clone() if fits else torch.zeros(shape, dtype=torch.long, device="cpu")
