"""Pooling, resampling and reductions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfpc_plugin.flow.layer import LayerContext
from dfpc_plugin.flow.registry import Convention, forms, rule

__all__: list[str] = []


def _same_operator(names: str, convention: Convention, formula: str) -> None:
    """Register operators that may be applied to bounds as they are."""
    for name in names.split():
        native = next(getattr(home, name) for home in (F, torch, Tensor) if hasattr(home, name))

        def apply(*args: Any, _native: Any = native, **kwargs: Any) -> Any:
            return _native(*args, **kwargs)

        apply.__name__, apply.__doc__ = name, formula
        rule(*forms(name), convention=convention)(apply)


_same_operator(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "mean sum cumsum nansum nanmean",
    Convention.EXACT,
    "The operator on the bounds: its matrix has no negative entry.",
)
_same_operator(
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices",
    Convention.BOUND,
    "The largest bound in the window: |max a - max b| <= max |a - b|.",
)
_same_operator(
    "lp_pool1d lp_pool2d", Convention.BOUND, "The operator on the bounds: | ||a|| - ||b|| | <= ||a - b||."
)


def _dims(input: Tensor, dim: Any) -> tuple[int, ...]:
    """Spell out the axes of a reduction."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return dims or tuple(range(input.dim()))


def _within_channels(input: Tensor, dims: tuple[int, ...]) -> bool:
    """Tell whether `dims` are positions of an (N, C, ..., H, W) map: its last two axes.

    A maximum or a norm over positions of one channel is that channel's own. Over several channels it would credit a
    change to the largest one only; the sum bounds each one's share.
    """
    return input.dim() >= 4 and all(dim % input.dim() >= input.dim() - 2 for dim in dims)


@rule(torch.linalg.vector_norm, torch.linalg.norm, convention=Convention.BOUND)
def vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """||x|| over the positions of an (N, C, ...) map: | ||a|| - ||b|| | <= ||a - b||; over other axes the sum."""
    dims = _dims(x, dim)
    if not _within_channels(x, dims):
        return x.sum(dims, keepdim=keepdim)
    return torch.linalg.vector_norm(x, 2 if ord is None or ord == "fro" else ord, dims, keepdim)


@rule(*forms("norm"), convention=Convention.BOUND)
def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """||x|| over the positions of an (N, C, ...) map: | ||a|| - ||b|| | <= ||a - b||; over other axes the sum."""
    return vector_norm(input, p, dim, keepdim)


@rule(*forms("amax", "amin", "logsumexp"), convention=Convention.BOUND)
def largest(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """max(x) over the positions of an (N, C, ...) map; over other axes the sum."""
    dims = _dims(input, dim)
    return input.amax(dims, keepdim) if _within_channels(input, dims) else input.sum(dims, keepdim=keepdim)


@rule(*forms("max", "min"), convention=Convention.BOUND, couples=True, additive=True)
def largest_or_larger(input: Tensor, other: Any = None, keepdim: bool = False, *, dim: Any = None) -> Any:
    """As `amax` along one axis; x + y for two tensors, as `maximum`."""
    if isinstance(other, Tensor):
        return input + other
    axis = dim if dim is not None else other
    if axis is None:
        return largest(input)
    values = largest(input, axis, keepdim)
    return torch.return_types.max((values, input.max(axis, keepdim).indices))


def _mean_over(input: Tensor, dim: Any, args: tuple, keepdim: bool) -> Tensor:
    """Mean over `dim`, which torch lets precede or leave out the flag `unbiased`; a third argument is keepdim."""
    dims = None if isinstance(dim, bool) else dim
    return input.mean(dims, keepdim=bool(args[1]) if len(args) > 1 else keepdim)


@rule(*forms("var", "std"))
def variance(input: Tensor, dim: Any = None, *args: Any, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """mean(x) over the axes: slope of a deviation at unit size."""
    return _mean_over(input, dim, args, keepdim)


@rule(*forms("var_mean", "std_mean"))
def variance_and_mean(input: Tensor, dim: Any = None, *args: Any, keepdim: bool = False, **kwargs: Any) -> Any:
    """mean(x) over the axes, for both."""
    mean = _mean_over(input, dim, args, keepdim)
    return mean, mean


@rule(*forms("interpolate", "upsample"))
def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """The resampling of the bounds, exact as its weights are not negative; bicubic is taken as bilinear, no bound."""
    if mode == "bicubic":
        mode, antialias = "bilinear", False
    return F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)


@rule(*forms("grid_sample"), context=True)
def grid_sample(flow: LayerContext, input: Tensor, grid: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The sampling of the bounds for a constant grid, exact unless bicubic; mean(x) + mean(grid) for one of data."""
    if not flow.is_data("grid"):
        return F.grid_sample(input, grid, *args, **kwargs)
    positions = list(range(2, input.dim()))
    moved = grid.mean(-1).unsqueeze(1)
    level = input.mean(positions, keepdim=True) if flow.is_data("input") else torch.zeros_like(input[..., :1, :1])
    return (level + moved).expand(input.shape[0], input.shape[1], *moved.shape[2:])
