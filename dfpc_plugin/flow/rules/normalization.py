"""Normalisations.

Batch normalisation in evaluation is the diagonal |gamma| / sqrt(running_var + eps). Normalisations that take their
statistics from the data have no bound without it; they are taken as diagonal too, with the statistic held fixed at the
root mean square of the incoming bounds, so that a factor in front of them cancels as it does in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.flow.registry import Convention, forms, rule

__all__: list[str] = []


def _by_root_mean_square(input: Tensor, dims: Sequence[int], eps: float | None) -> Tensor:
    """Divide by the root mean square over `dims`, a constant for the backward pass; zeros stay zero."""
    scale = input.detach().square().mean(list(dims), keepdim=True).add(eps or 1e-12).sqrt()
    return input / scale


def _per_channel(parameter: Tensor, input: Tensor) -> Tensor:
    """Align `(C,)` with `(N, C, ...)`."""
    return parameter.view(-1, *(1,) * (input.dim() - 2))


def _batch_norm(input: Tensor, running_var: Tensor | None, weight: Tensor | None, eps: float) -> Tensor:
    if running_var is None:
        out = _by_root_mean_square(input, [dim for dim in range(input.dim()) if dim != 1], eps)
        return out if weight is None else out * _per_channel(weight.abs(), input)
    scale = (running_var + eps).rsqrt()
    return input * _per_channel(scale if weight is None else scale * weight.abs(), input)


@rule(torch.nn.functional.batch_norm, convention=Convention.EXACT)
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """|gamma| / sqrt(running_var + eps) x, in evaluation; without running statistics like instance norm."""
    return _batch_norm(input, running_var, weight, eps)


@rule(torch.batch_norm, convention=Convention.EXACT)
def scripted_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """|gamma| / sqrt(running_var + eps) x, in TorchScript's order of arguments."""
    return _batch_norm(input, running_var, weight, eps)


@rule(*forms("layer_norm"))
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """|gamma| x / rms(x), the root mean square over the normalised axes held fixed."""
    return rms_norm(input, normalized_shape, weight, eps)


@rule(*forms("rms_norm"))
def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """|gamma| x / rms(x), the root mean square over the normalised axes held fixed."""
    out = _by_root_mean_square(input, list(range(-len(normalized_shape), 0)), eps)
    return out if weight is None else out * weight.abs()


@rule(*forms("group_norm"))
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """|gamma| x / rms(x), the root mean square over each group held fixed."""
    grouped = input.unflatten(1, (num_groups, -1))
    out = _by_root_mean_square(grouped, list(range(2, grouped.dim())), eps).flatten(1, 2)
    return out if weight is None else out * _per_channel(weight.abs(), input)


@rule(*forms("instance_norm"))
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """|gamma| x / rms(x) over each channel's positions, held fixed; with running statistics like batch norm."""
    if running_var is not None and not use_input_stats:
        return _batch_norm(input, running_var, weight, eps)
    out = _by_root_mean_square(input, list(range(2, input.dim())), eps)
    return out if weight is None else out * _per_channel(weight.abs(), input)


@rule(*forms("normalize"))
def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """x / ||x||_p, the norm of the bounds held fixed."""
    return input / torch.linalg.vector_norm(input.detach(), p, dim, keepdim=True).clamp_min(eps)


@rule(*forms("local_response_norm"))
def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / k^beta: the denominator without its data-dependent part."""
    return input / k**beta


@rule(*forms("softmax", "log_softmax", "softmin"))
def softmax(input: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    """x: each weight is taken to follow its own logit."""
    return input
