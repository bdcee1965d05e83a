"""Normalisation layers.

Batch norm in evaluation is the diagonal map |gamma| / sqrt(running_var + eps). Norms that compute statistics from data
have no bound without the data; they are treated as diagonal, too, with the statistic fixed at the root mean square of
the incoming bounds. A factor in front of such a norm thus cancels, as it does in the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.moments import aligned, ratio, real_values
from dfpc_plugin.ops.geometry import require_channels
from dfpc_plugin.ops.linear import weight_rows
from dfpc_plugin.ops.record import EXACT, combines_entries, composed, operator
from dfpc_plugin.ops.reduction import along_an_axis
from dfpc_plugin.tracing.axes import varying
from dfpc_plugin.tracing.operator import forms, present
from dfpc_plugin.tracing.proxy import Proxy, shape_of, slots_of


def _by_root_mean_square(input: Tensor, dims: Sequence[int], eps: float | None) -> Tensor:
    """Divide by the root mean square over `dims`, which gets no gradient; zeros stay zero."""
    scale = input.detach().square().mean(list(dims), keepdim=True).add(eps or 1e-12).sqrt()
    return input / scale


def _normalised(flow: LayerContext, input: Tensor, dims: Sequence[int], eps: float | None) -> Tensor:
    """Divide by the root mean square over `dims`, or variances by their mean; the divisor gets no gradient."""
    if not flow.expected:
        return _by_root_mean_square(input, dims, eps)
    level = input.detach().mean(list(dims), keepdim=True)
    return input * ratio(torch.ones_like(level), level + (eps or 0))


def _scaled(normalised: Tensor, gamma: Tensor | None) -> Tensor:
    """Multiply by |gamma| `(C,)` on axis one."""
    if gamma is None:
        return normalised
    require_channels(normalised.shape, 1, len(gamma))
    return normalised * gamma.abs().view(-1, *(1,) * (normalised.dim() - 2))


def _mean_beta(given: Mapping[str, Any], variance: Tensor) -> Any:
    """The mean after a norm that centres."""
    beta = given.get("bias")
    if beta is None:
        return variance, variance.new_zeros(())
    over_last = "normalized_shape" in given
    return variance, real_values(beta).to(variance.dtype) if over_last else aligned(beta, variance, 1)


def _per_channel(call: ChannelCall, input: Any, weight: Any, bias: Any, *statistics: Any) -> Any:
    """Unite vectors with axis one. If the input is data, the weight's labels name the result's channels."""
    vectors = [vector for vector in (weight, bias, *statistics) if vector is not None]
    by_weight = weight is not None and (not isinstance(input, Proxy) or input.holds_data)
    if by_weight and bias is not None:
        call.biased(weight, bias)
    result = call.per_channel(input, vectors, first=1 if by_weight else 0)
    result.rows = weight_rows(weight, result, 1) if by_weight else ()
    return result


def _batch_norm_channels(
    call: ChannelCall, input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    """Unite statistics, weight and bias with axis one, whose size the module's `num_features` states."""
    call.described(input, "num_features")
    return _per_channel(call, input, weight, bias, running_mean, running_var)


def _by_statistics(input: Tensor, running_var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    scale = (running_var + eps).rsqrt()
    return _scaled(input, scale if weight is None else scale * weight.abs())


@operator(
    torch.nn.functional.batch_norm, convention=EXACT, channels=_batch_norm_channels, noise=_mean_beta, context=True, kind="norm"
)  # fmt: skip
def batch_norm(
    flow: LayerContext,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """|gamma| / sqrt(running_var + eps) x, in evaluation; without running statistics like instance norm.

    Variances become gamma^2: the running statistics are assumed to be those of the input.
    """
    if flow.expected:
        return _scaled(input * ratio(torch.ones_like(input), input.detach()), weight)
    if running_var is not None:
        return _by_statistics(input, running_var, weight, eps)
    return _scaled(_by_root_mean_square(input, [dim for dim in range(input.dim()) if dim != 1], eps), weight)


@composed(torch.batch_norm)
def scripted_batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float,
    cudnn_enabled: bool,
) -> Any:  # fmt: skip
    """Batch norm in TorchScript's order of arguments."""
    return torch.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _layer_norm_channels(
    call: ChannelCall, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, *args: Any, **rest: Any
) -> Any:
    """Require the normalised sizes, and unite weight and bias with the last axes."""
    sizes = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
    rank = len(shape_of(input))
    for axis, size in enumerate(sizes, rank - len(sizes)):
        require_channels(shape_of(input), axis, size)
    for slot in slots_of(input):
        for offset, size in enumerate(reversed(sizes)):
            if rank - 1 - offset in varying(slot):
                call.size(slot, rank - 1 - offset, size)
    given = [v for v in (weight, bias) if isinstance(v, Tensor)]
    if isinstance(bias, Tensor) and isinstance(weight, Proxy):
        call.biased(weight, bias)
    if not given:
        return call.same(input)
    result = call.elementwise(*given[:1], input, *given[1:])
    result.rows = weight_rows(weight, result, rank - 1) if isinstance(weight, Tensor) and len(sizes) == 1 else ()
    return result


def _rms_norm_channels(
    call: ChannelCall, input: Any, normalized_shape: Any, weight: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Like layer norm without a bias."""
    return _layer_norm_channels(call, input, normalized_shape, weight)


@operator(*forms("layer_norm"), channels=_layer_norm_channels, noise=_mean_beta, context=True, kind="norm")
def layer_norm(
    flow: LayerContext,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """|gamma| x / rms(x), the root mean square over the normalised axes held fixed."""
    return rms_norm(flow, input, normalized_shape, weight, eps)


@operator(*forms("rms_norm"), channels=_rms_norm_channels, context=True, kind="norm")
def rms_norm(
    flow: LayerContext,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """|gamma| x / rms(x), the root mean square over the normalised axes held fixed."""
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    axes = list(range(-count, 0))
    for axis, size in zip(axes, () if weight is None else weight.shape[axes[0] :], strict=False):
        require_channels(input.shape, axis, size)
    out = _normalised(flow, input, axes, eps)
    return out if weight is None else out * weight.abs()


def _group_norm_channels(
    call: ChannelCall, input: Any, num_groups: Any, weight: Any = None, bias: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Require equally many channels per group; unite weight and bias with axis one."""
    count = int(num_groups)
    call.described(input, "num_channels")
    for slot in slots_of(input):
        if 1 in varying(slot) and count > 1:
            rows = slot.unflatten(1, (count, -1))
            call.size(rows, 1, num_groups)
            if slot.size(1) > count:
                call.size(rows, 2, None, flexible=2)
    return _per_channel(call, input, weight, bias)


@operator(*forms("group_norm"), channels=_group_norm_channels, noise=_mean_beta, context=True, kind="norm")
def group_norm(
    flow: LayerContext,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """|gamma| x / rms(x), the root mean square over each group held fixed."""
    grouped = input.unflatten(1, (num_groups, -1))
    return _scaled(_normalised(flow, grouped, range(2, grouped.dim()), eps).flatten(1, 2), weight)


@operator(*forms("instance_norm"), channels=_batch_norm_channels, kind="norm")
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
        return _by_statistics(input, running_var, weight, eps)
    return _scaled(_by_root_mean_square(input, range(2, input.dim()), eps), weight)


@operator(*forms("normalize"), channels=along_an_axis, kind="norm")
def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """x / ||x||_p, the norm of the bounds held fixed."""
    return input / torch.linalg.vector_norm(input.detach(), p, dim, keepdim=True).clamp_min(eps)


def _neighbours(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Protect the channels: pruning would change which of them are neighbours."""
    call.protect(input, f"is normalised with neighbouring channels in {call.where}")
    return call.same(input)


@operator(*forms("local_response_norm"), channels=_neighbours, kind="norm")
def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / k^beta: the denominator without its data-dependent part."""
    return input / k**beta


def _softmax_noise(given: Mapping[str, Any], variance: Tensor) -> Any:
    """The mean is one over the number of elements, as they sum to one."""
    dim = given.get("dim")
    return variance, None if dim is None else variance.new_full((), 1 / shape_of(given["input"])[dim])


@operator(*forms("log_softmax", "gumbel_softmax"), channels=along_an_axis, kind="norm")
@operator(*forms("softmax", "softmin"), channels=along_an_axis, noise=_softmax_noise, kind="norm")
def softmax(input: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    """x: each output is assumed to depend on its own logit alone."""
    return input


@operator(*present("renorm"), channels=lambda call, input, *args, **kwargs: call.same(input), kind="norm")
def renorm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x: rows are only scaled down."""
    return input


@operator(torch._weight_norm, channels=combines_entries, kind="norm", couples=True)
def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """x + y: a direction times a length, both assumed of size one."""
    return v + g
