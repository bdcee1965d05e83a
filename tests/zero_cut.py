"""Zero channels in one copy of a model and cut them from another: both must compute the same.

Norms and means have statistics that a zeroed channel would still take part in; in `masked_statistics` it does
not, so that the two models agree exactly and every index out of place shows.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfpc_plugin.couplings import CouplingMap, DataFlowCoupling
from dfpc_plugin.inputs import as_call
from dfpc_plugin.surgery import cut
from dfpc_plugin.tracing.tree import tensors

Units = Mapping[int, Tensor]
"""By position of a coupling in its map, the units to remove."""


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give biases, gains and running statistics values of their own; weights that are zero get small ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() <= 1:
                gain = "weight" in name or "gamma" in name
                values = torch.rand(parameter.shape, generator=generator)
                parameter.copy_(values * 0.5 + 0.75 if gain else values * 0.2 - 0.1)
            elif parameter.abs().max() == 0:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                shape = module.running_mean.shape
                module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(shape, generator=generator) * 0.5 + 0.75)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under every name, whether or not it is saved, and tensors in plain attributes."""
    named = {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules(remove_duplicate=False)
        for name, value in vars(module).items() if isinstance(value, Tensor)
    }  # fmt: skip
    named |= dict(model.named_parameters(remove_duplicate=False))
    return named | dict(model.named_buffers(remove_duplicate=False))


def fill(tensor: Tensor, name: str, dim: int, groups: int, indices: list[int]) -> None:
    """Zero some indices of one dimension, of every group if there are groups; variances become one."""
    rows = tensor.unflatten(0, (groups, -1)) if groups > 1 else tensor[None]
    size = tensor.size(dim)
    for index in indices:
        rows[index // size].select(dim, index % size).fill_(1.0 if name.endswith("running_var") else 0.0)


def zero(model: nn.Module, coupling: DataFlowCoupling, units: Tensor) -> None:
    """Zero everything that goes with `units`."""
    named = state(model)
    with torch.no_grad():
        for piece in coupling.slices:
            indices = piece.indices[units].reshape(-1).tolist()
            fill(named[piece.tensor], piece.tensor, piece.dim, piece.groups, indices)


def zero_channels(model: nn.Module, couplings: CouplingMap, gone: Tensor) -> None:
    """Zero everything that belongs to some channels."""
    named = state(model)
    with torch.no_grad():
        for axis in couplings.channels.axes:
            indices = torch.isin(axis.channels, gone).nonzero().squeeze(1).tolist()
            fill(named[axis.tensor], axis.tensor, axis.dim, axis.groups, indices)


def removed_channels(couplings: CouplingMap, units: Units) -> Tensor:
    """Numbers of the channels of some units."""
    return torch.cat([couplings.couplings[number].blocks[:, some].reshape(-1) for number, some in units.items()])


def random_units(couplings: CouplingMap, share: float = 0.3, seed: int = 1, least: int = 0) -> dict[int, Tensor]:
    """A share of the units of every coupling that may be pruned; at least one stays."""
    generator = torch.Generator().manual_seed(seed)
    chosen = {}
    for number, coupling in enumerate(couplings.couplings):
        count = min(max(int(coupling.channels * share), least), coupling.channels - 1)
        if coupling.protected is None and count > 0:
            chosen[number] = torch.randperm(coupling.channels, generator=generator)[:count]
    return chosen


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Everything real that the model returns."""
    args, kwargs = as_call(inputs)
    with torch.no_grad():
        result = model(*args, **kwargs)
    if hasattr(result, "__dict__") and not isinstance(result, Tensor | dict):
        result = vars(result)
    return [tensor for tensor in tensors(result) if tensor.is_floating_point()]


def zeroed(model: nn.Module, couplings: CouplingMap, units: Units) -> nn.Module:
    """A copy of the model in which units are zero."""
    result = copy.deepcopy(model)
    for number, some in units.items():
        zero(result, couplings.couplings[number], some)
    return result


def difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest difference, relative to the largest entry; infinite if shapes differ or some are not finite."""
    if [t.shape for t in first] != [t.shape for t in second] or not all(torch.isfinite(t).all() for t in second):
        return float("inf")
    scales = [max(float(a.abs().max()), 1e-30) if a.numel() else 1.0 for a in first]
    return max((float((a - b).abs().max()) / s for a, b, s in zip(first, second, scales, strict=True) if a.numel()))


def error_of_cut(model: nn.Module, couplings: CouplingMap, inputs: Any, units: Units) -> float:
    """Cut `units` from `model` and return how far it then is from a copy in which they are zero."""
    expected = outputs(zeroed(model, couplings, units), inputs)
    cut(model, couplings, removed_channels(couplings, units))
    return difference(expected, outputs(model, inputs))


def _present(input: Tensor, axes: list[int]) -> Tensor:
    """Where along `axes` there is anything but zero."""
    others = [axis for axis in range(input.dim()) if axis not in axes]
    return input.ne(0).amax(others, keepdim=True) if others else input.ne(0)


def _mean(input: Tensor, axes: list[int], present: Tensor) -> Tensor:
    """Mean over what is present."""
    present = present.expand(input.shape).to(input.dtype)
    return (input * present).sum(axes, keepdim=True) / present.sum(axes, keepdim=True).clamp_min(1)


def _standardised(input: Tensor, axes: list[int], present: Tensor, eps: float) -> Tensor:
    """Zero mean and unit variance over what is present."""
    centred = input - _mean(input, axes, present)
    return centred * (_mean(centred.square(), axes, present) + eps).rsqrt()


def _affine(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    input = input if weight is None else input * weight
    return input if bias is None else input + bias


def _gains(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Channels that a norm does not set to zero."""
    return weight.ne(0) if bias is None else weight.ne(0) | bias.ne(0)


def _layer_norm(input: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    assert tuple(input.shape[-len(shape) :]) == tuple(shape)
    axes = list(range(input.dim() - len(shape), input.dim()))
    present = _present(input, axes) if weight is None else _gains(weight, bias)
    return _affine(_standardised(input, axes, present, eps), weight, bias)


def _rms_norm(input: Tensor, shape: Any, weight: Any = None, eps: Any = None) -> Tensor:
    assert tuple(input.shape[-len(shape) :]) == tuple(shape)
    axes = list(range(input.dim() - len(shape), input.dim()))
    present = _present(input, axes) if weight is None else _gains(weight, None)
    return _affine(input * (_mean(input.square(), axes, present) + (eps or 0)).rsqrt(), weight, None)


def _group_norm(input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    ones = [1] * (input.dim() - 2)
    present = _present(input, [1]) if weight is None else _gains(weight, bias).view(1, -1, *ones)
    rows, there = (t.unflatten(1, (num_groups, -1)) for t in (input, present))
    result = _standardised(rows, list(range(2, rows.dim())), there, eps).flatten(1, 2) * present
    return _affine(result, *(None if v is None else v.view(-1, *ones) for v in (weight, bias)))


def _batch_norm(
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Only standardised weights have statistics of their own in evaluation mode."""
    if not training:
        return _NATIVE["batch_norm"](input, running_mean, running_var, weight, bias, False, momentum, eps)
    rows = _standardised(input, [0, *range(2, input.dim())], input.ne(0), eps) * input.ne(0)
    ones = [1] * (input.dim() - 2)
    return _affine(rows, *(None if v is None else v.view(-1, *ones) for v in (weight, bias)))


def _softmax(input: Tensor, dim: int, *args: Any, **kwargs: Any) -> Tensor:
    """A logit of exactly zero is one of channels that are not there."""
    result = _NATIVE_SOFTMAX(input.masked_fill(input == 0, float("-inf")), dim)
    return torch.nan_to_num(result, 0.0) * input.ne(0)


def _mean_over(input: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    axes = list(range(input.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    axes = [axis % input.dim() for axis in axes]
    result = _mean(input, axes, _present(input, axes))
    return result if keepdim else result.squeeze(axes)


_FUNCTIONS = ("batch_norm", "softmax", "layer_norm", "group_norm", "rms_norm")
_NATIVE_SOFTMAX = torch.softmax
_NATIVE = {name: getattr(F, name) for name in _FUNCTIONS if hasattr(F, name)}


@contextlib.contextmanager
def masked_statistics() -> Iterator[None]:
    """Norms, means and softmax leave out entries of channels that are zero, as if these had been cut."""
    own = {f"_{name}": name for name in _NATIVE}
    with contextlib.ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # it is written in C++, with statistics of its own
        for function, name in own.items():
            stack.enter_context(mock.patch.object(F, name, globals()[function]))
        for owner in (torch, Tensor):
            stack.enter_context(mock.patch.object(owner, "softmax", _softmax))
            stack.enter_context(mock.patch.object(owner, "mean", _mean_over))
        yield
