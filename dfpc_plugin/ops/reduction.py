"""Sums, means, extrema, norms and sorting along axes; losses, which some models return beside their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.analyses.combine import sum_away
from dfpc_plugin.analyses.moments import mean_of
from dfpc_plugin.errors import ValueDependentError
from dfpc_plugin.ops.record import BOUND, EXACT, combines_entries, native, operator
from dfpc_plugin.tracing.axes import inner_axis, varying
from dfpc_plugin.tracing.operator import Means, forms, present
from dfpc_plugin.tracing.proxy import Proxy, is_data, shape_of


def _reduced(call: ChannelCall, input: Proxy, dim: Any, keepdim: bool) -> Proxy:
    """Sum labels over axes; None: over all."""
    own = shape_of(input)
    dims = range(len(own)) if dim is None or dim == [] or dim == () else [dim] if isinstance(dim, int) else dim
    axes = {int(axis) % max(len(own), 1) for axis in dims}
    shape = [1 if axis in axes else size for axis, size in enumerate(own)]
    left = sum_away(call.table, input.slots, axes, call.where)
    if not keepdim:
        index = tuple(0 if axis in axes else slice(None) for axis in range(len(own)))
        left = [slot[index] for slot in left]
        shape = [size for axis, size in enumerate(own) if axis not in axes]
    return call.make(shape, left)


def _asked(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
    """The axes (None for all) and `keepdim` among the arguments of a reduction called `name`."""
    given = [arg for arg in args if not isinstance(arg, torch.dtype)][int(name.endswith("norm")) :]
    place = 2 if name.startswith(("var", "std")) else 1  # behind `unbiased`, which may stand in the place of the axes
    dim = kwargs.get("dim", kwargs.get("axis", given[0] if given else None))
    keepdim = kwargs.get("keepdim", given[place] if len(given) > place else False)
    return None if isinstance(dim, bool) else dim, bool(keepdim)


def _reduced_channels(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Read the channels along the reduced axes; keep the others. Positions would shift, so channels along their axis stay."""
    dim, keepdim = _asked(call.name, args, kwargs)
    if call.name in ("argmax", "argmin"):
        call.protect(
            input, f"is numbered by its position in {call.where}", None if dim is None else int(dim) % input.dim()
        )
    return _reduced(call, input, dim, keepdim)


def _sum_noise(given: Mapping[str, Any], variance: Tensor) -> Any:
    """n times the mean; the n elements are assumed to vary together, so the variance is n^2 times their average."""
    data = given["input"]
    count = shape_of(data).numel() / max(1, variance.numel())
    dim, keepdim = given.get("dim"), bool(given.get("keepdim", False))
    mean = mean_of(data)
    if mean is not None:
        mean = mean.expand(shape_of(data))
        mean = mean.sum() if dim is None else mean.sum(dim, keepdim=keepdim)
    return variance * count, mean


_reduces = partial(operator, channels=_reduced_channels, kind="reduces")
_POSITIVE = "The operator on the bounds: its matrix has no negative entry."
for _name in ("mean", "nanmean"):
    _reduces(*forms(_name), convention=EXACT, means=Means.LINEAR)(native(getattr(torch, _name), __name__, _POSITIVE))


@_reduces(*forms("sum", "nansum"), convention=EXACT, noise=_sum_noise)
def total(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The operator on the bounds: its matrix has no negative entry."""
    return input.sum() if dim is None else input.sum(dim, keepdim)


def along_an_axis(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Mix elements along an axis without summing it away, like a norm, which works for any number of channels.

    Along an axis of rows, the elements at one position are united.
    """
    numbers = [arg for arg in args if isinstance(arg, int)]
    if call.name == "normalize":
        numbers = numbers[-1:] if len(args) > 1 else [1]
    dim = kwargs.get("dim", numbers[0] if numbers else None)
    slots = []
    for slot in input.slots:
        axis = None if dim is None else int(dim) % slot.dim()
        if axis in varying(slot) and axis != inner_axis(slot):
            slot = call.table.unite_along(slot, [axis], call.where).expand(slot.shape)
        slots.append(slot)
    return call.make(shape_of(input), slots)


_reduces(*forms("cumsum"), convention=EXACT, channels=along_an_axis)(native(torch.cumsum, __name__, _POSITIVE))


@_reduces(*present("cumprod", "logcumsumexp"), channels=along_an_axis)
def running_product(input: Tensor, dim: int, *args: Any, **kwargs: Any) -> Tensor:
    """The running sum of the bounds: elements are assumed of size one."""
    return input.cumsum(dim)


def _dims(input: Tensor, dim: Any) -> tuple[int, ...]:
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return dims or tuple(range(input.dim()))


def _within_channels(input: Tensor, dims: Iterable[int]) -> bool:
    """Tell whether `dims` are positions of an (N, C, ..., H, W) map: its last two axes.

    A maximum or norm over positions belongs to one channel. Over several channels, a maximum would credit a change to
    the largest one only, so the sum is used.
    """
    return input.dim() >= 4 and all(dim % input.dim() >= input.dim() - 2 for dim in dims)


@_reduces(torch.linalg.vector_norm, torch.linalg.norm, convention=BOUND)
def vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """||x|| over the positions of an (N, C, ...) map: | ||a|| - ||b|| | <= ||a - b||; over other axes the sum."""
    dims = _dims(x, dim)
    if not _within_channels(x, dims):
        return x.sum(dims, keepdim=keepdim)
    return torch.linalg.vector_norm(x, 2 if ord is None or ord == "fro" else ord, dims, keepdim)


@_reduces(*forms("norm"), convention=BOUND)
def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """||x|| over the positions of an (N, C, ...) map: | ||a|| - ||b|| | <= ||a - b||; over other axes the sum."""
    return vector_norm(input, p, dim, keepdim)


@_reduces(*forms("amax", "amin", "logsumexp"), convention=BOUND)
def largest(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """max(x) over the positions of an (N, C, ...) map; over other axes the sum."""
    dims = _dims(input, dim)
    return input.amax(dims, keepdim) if _within_channels(input, dims) else input.sum(dims, keepdim=keepdim)


@_reduces(*forms("prod"))
def product(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum: factors are assumed of size one."""
    return input.sum(_dims(input, dim), keepdim=keepdim)


def _extreme_channels(call: ChannelCall, input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """Extrema along an axis with their positions; over all axes; or of two tensors."""
    other = kwargs.get("other", dim)
    if isinstance(other, Tensor):
        return combines_entries(call, input, other)
    if dim is None:
        return _reduced(call, input, None, False)
    values = _reduced(call, input, dim, keepdim)
    return torch.return_types.max(_with_positions(call, shape_of(values), values.slots))


def _with_positions(call: ChannelCall, shape: torch.Size, slots: Iterable[Tensor]) -> tuple[Proxy, Proxy]:
    """Values and their positions along an axis: both are the channels' own along other axes."""
    left = tuple(slots)
    return call.make(shape, left, part=0), call.make(shape, left, part=1, dtype=torch.long)


@_reduces(
    *forms("max", "min"), convention=BOUND, channels=_extreme_channels, means=Means.POINTWISE, couples=True,
    additive=True, dtypes=(None, torch.long),
)  # fmt: skip
def largest_or_larger(input: Tensor, other: Any = None, keepdim: bool = False, *, dim: Any = None) -> Any:
    """As `amax` along one axis; x + y for two tensors, as `maximum`."""
    if isinstance(other, Tensor):
        return input + other
    axis = dim if dim is not None else other
    if axis is None:
        return largest(input)
    values = largest(input, axis, keepdim)
    return torch.return_types.max((values, torch.zeros_like(values)))


@_reduces(*forms("var", "std"))
def variance(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """mean(x) over the axes: the slope of a deviation of size one."""
    dim, keepdim = _asked("var", args, kwargs)
    return input.mean(dim, keepdim=keepdim)


def _both_channels(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    first = _reduced_channels(call, input, *args, **kwargs)
    return tuple(call.make(shape_of(first), first.slots, part=part) for part in range(2))


@_reduces(*forms("var_mean", "std_mean"), channels=_both_channels)
def variance_and_mean(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """mean(x) over the axes, for both."""
    mean = variance(input, *args, **kwargs)
    return mean, mean


def _unchanging(formula: str) -> Callable[..., Tensor]:
    def zero(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        return torch.zeros_like(input.sum(_dims(input, dim), keepdim=keepdim))

    zero.__doc__ = formula
    return zero


for _names, _dtype, _formula in (
    (("argmax", "argmin"), torch.long, "Zero: positions are assumed not to change."),
    (("all", "any"), torch.bool, "Zero: the answer is assumed not to change."),
    (("count_nonzero",), torch.long, "Zero: the count is assumed not to change."),
):
    _reduces(*forms(*_names), dtypes=(_dtype,))(_unchanging(_formula))


def _order_axis(name: str, args: tuple, kwargs: dict[str, Any], rank: int) -> int:
    """The axis that a function orders along; `topk` and `kthvalue` take a number before it."""
    position = name in ("topk", "kthvalue")
    numbers = [arg for arg in args if isinstance(arg, int) and not isinstance(arg, bool)]
    return int(kwargs.get("dim", numbers[position] if len(numbers) > position else -1)) % max(rank, 1)


def _ordered_channels(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Order elements by value; protect channels along the axis."""
    dim = _order_axis(call.name, args, kwargs, input.dim())
    shapes = call.on_shapes()
    if isinstance(shapes, Tensor):
        return _reduced(call, input, None, False)
    left = []
    for slot in input.slots:
        if dim in varying(slot):
            call.table.freeze(slot, f"is sorted by {call.where}")
        else:
            first = slot.narrow(dim, 0, 1)
            left.append(first if shapes[0].dim() == input.dim() else first.squeeze(dim))
    return type(shapes)(_with_positions(call, shapes[0].shape, left))


@_reduces(
    *present("topk", "sort", "kthvalue", "median", "nanmedian", "mode", "cummax", "cummin"),
    convention=BOUND,
    channels=_ordered_channels,
    dtypes=(None, torch.long),
    context=True,
)
def in_order(flow: LayerContext, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The largest change along the axis bounds that of every result (over several channels, their sum)."""
    found = flow.on_shapes()
    if isinstance(found, Tensor):
        return largest(input)
    dim = _order_axis(flow.function_name, args, kwargs, input.dim())
    values = largest(input, dim, found[0].dim() == input.dim()).expand(found[0].shape)
    return type(found)((values, torch.zeros_like(values)))


def _positions(call: ChannelCall, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Positions in an order, which channels along other axes have of their own; channels along the axis are protected."""
    dim = _order_axis(call.name, args, kwargs, input.dim())
    call.protect(input, f"is sorted by {call.where}", dim)
    return call.make(shape_of(input), [slot for slot in input.slots if dim not in varying(slot)])


@_reduces(*present("argsort"), channels=_positions, dtypes=(torch.long,))
def order(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Zero: positions are assumed not to change."""
    return torch.zeros_like(input)


def _buckets(call: ChannelCall, *args: Any, **kwargs: Any) -> Any:
    """Positions in a table have no channels; the operands' channels are protected."""
    if call.name == "one_hot" and int(kwargs.get("num_classes", args[1] if len(args) > 1 else -1)) < 0:
        raise ValueDependentError("torch.nn.functional.one_hot without num_classes", call.caller)
    for operand in call.call.operands:
        call.protect(operand, f"is a position in {call.where}")
    return call.make(call.on_shapes().shape)


@_reduces(*present("searchsorted", "bucketize", "one_hot"), channels=_buckets, dtypes=(torch.long,), context=True)
def place(flow: LayerContext, *args: Any, **kwargs: Any) -> Tensor:
    """Zero: positions are assumed not to change."""
    if flow.function_name == "one_hot" and int(kwargs.get("num_classes", args[1] if len(args) > 1 else -1)) < 0:
        raise ValueDependentError("torch.nn.functional.one_hot without num_classes", flow.caller)
    shape = flow.on_shapes().shape
    return torch.zeros(shape, dtype=torch.float32, device=next(arg.device for arg in args if isinstance(arg, Tensor)))


_LOSSES = (
    "binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy ctc_loss gaussian_nll_loss "
    "hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss "
    "multilabel_soft_margin_loss nll_loss poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss"
).split()


def _loss_channels(call: ChannelCall, *args: Any, **kwargs: Any) -> Any:
    """Protect the operands' channels: they are compared with targets position by position."""
    return call.opaque(f"is compared with a target in {call.where}")


@_reduces(*present(*_LOSSES), channels=_loss_channels, context=True)
def loss(flow: LayerContext, *args: Any, **kwargs: Any) -> Tensor:
    """The sum of the mean bounds of all data operands: slope one is assumed."""
    originals = (*flow.arguments, *(flow.original(name) for name in kwargs))
    compared = [
        given.mean()
        for given, original in zip((*args, *kwargs.values()), originals, strict=True)
        if isinstance(given, Tensor) and is_data(original) and original.is_floating_point()
    ]
    shape = flow.on_shapes().shape
    total = torch.stack(compared).sum() if compared else torch.zeros((), device=args[0].device)
    return total.expand(shape)
