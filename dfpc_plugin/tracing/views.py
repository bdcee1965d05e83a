"""Views of proxies, and labels of partly written tensors.

An in-place operation on a view changes the viewed tensor. So a view remembers its source and how it was taken: changes are
written through to the source, and a view whose source has changed is taken again when it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from dfpc_plugin.tracing.axes import canonical, squeezed, varying


class _Versioned(Protocol):
    """A tensor that counts its changes in place."""

    version: int


Source = TypeVar("Source", bound=_Versioned)


class View(Generic[Source]):
    """A view: `take` makes it from anything laid out like its source."""

    def __init__(self, source: Source, take: Callable[[Tensor], Tensor], *, looked_at: bool = True) -> None:
        """Remember the source; `looked_at`: the view is up to date."""
        self.source, self.take, self.seen = source, take, source.version if looked_at else -1


def written_through(
    before: tuple[Tensor, ...], slots: tuple[Tensor, ...], positions: Tensor, shape: torch.Size
) -> tuple[Tensor, ...]:
    """Labels of a tensor after some positions were overwritten."""
    changed = []
    for number, slot in enumerate(slots):
        old = before[number].expand(shape) if number < len(before) else spread_out(slot, shape)
        flat = old.reshape(-1).clone()
        flat[positions] = slot.reshape(-1)
        changed.append(canonical(flat.view(shape)))
    return tuple(changed)


def spread_out(slot: Tensor, shape: torch.Size) -> Tensor:
    """Labels of a partly written constant: the rest takes the channels of what is written, if shapes allow it."""
    fits = slot.dim() == len(shape) and all(slot.size(axis) == shape[axis] for axis in varying(slot))
    return squeezed(slot).expand(shape).clone() if fits else torch.zeros(shape, dtype=torch.long, device="cpu")
