"""Axes along which a tensor of labels varies.

Labels are kept expanded: an axis along which they do not vary has stride zero. A feature map thus costs as much as its
channels, and the model's operators run on it as views.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NO_LABELS = torch.zeros(0, dtype=torch.long, device="cpu")
_NO_STEP = 2**62
"""Above any difference of labels."""


def varying(labels: Tensor) -> tuple[int, ...]:
    """Axes along which canonical `labels` differ."""
    sizes = labels.shape
    return tuple([axis for axis, step in enumerate(labels.stride()) if step and sizes[axis] > 1])


def squeezed(labels: Tensor) -> Tensor:
    """Keep one position of every axis along which `labels` do not vary; those axes have size one."""
    steps = labels.stride()
    if all(steps):
        return labels
    sizes = [min(size, 1) if not step else size for size, step in zip(labels.shape, steps, strict=True)]
    return labels.as_strided(sizes, steps)


def listed(labels: Tensor) -> Tensor:
    """Return `labels` as a vector, without repetitions along axes on which they do not vary."""
    return squeezed(labels).reshape(-1)


def along(axis: int, rank: int) -> list[int]:
    """Return the shape in which a vector is viewed to lie along one of `rank` axes."""
    return [-1 if other == axis else 1 for other in range(rank)]


def canonical(labels: Tensor) -> Tensor:
    """Give stride zero to every axis along which `labels` do not vary."""
    small = squeezed(labels)
    for axis, size in enumerate(small.shape):
        if size > 1:
            first = small.narrow(axis, 0, 1)
            if torch.equal(first.expand(small.shape), small):
                small = first
    return small.expand(labels.shape)


def first_along(labels: Tensor, axes: Iterable[int]) -> Tensor:
    """Keep the first position along `axes`, which then have size one."""
    for axis in axes:
        labels = labels.narrow(axis, 0, 1)
    return labels


def inner_axis(labels: Tensor) -> int | None:
    """Return the innermost axis that `labels` vary along, in the order of their parameter.

    Labels are numbered along the parameter, so neighbours on the innermost axis differ least: after a reshape of 384
    channels to 6 heads of 64, it is the axis of size 64, wherever it is moved later.
    """
    axes = varying(labels)
    if len(axes) <= 1:
        return axes[0] if axes else None
    small = squeezed(labels)
    steps = []
    for axis in axes:
        differences = small.diff(dim=axis).abs_()
        step = int(differences.masked_fill_(differences == 0, _NO_STEP).min())
        if step < _NO_STEP:
            steps.append((step, axis))
    return min(steps)[1]


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
