"""Axes along which a tensor of labels varies.

Labels are kept expanded: an axis along which they do not vary has stride zero. A feature map thus costs as much as its
channels, and the model's operators run on it as views.
"""

from __future__ import annotations

import torch
from torch import Tensor

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


def canonical(labels: Tensor) -> Tensor:
    """Give stride zero to every axis along which `labels` do not vary."""
    small = squeezed(labels)
    for axis, size in enumerate(small.shape):
        if size > 1:
            first = small.narrow(axis, 0, 1)
            if torch.equal(first.expand(small.shape), small):
                small = first
    return small.expand(labels.shape)


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
