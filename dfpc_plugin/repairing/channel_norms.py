"""What norms over channels have to make good in a pruned model: LayerNorm, GroupNorm and RMSNorm.

Such a norm divides by the deviation of the channels that it finds. Without those that are gone that is another one, and all that
is kept comes out at another scale. With z what a kept channel is before weight and bias in the unpruned model, and z' the same
without the channels that go, the norm gets the slope a and the intercept c of the regression z ~ a z' + c over a group's
channels: its weight w and bias b become a w and b + c w.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfpc_plugin.repairing.kept import Kept

__all__ = ["ChannelNorms"]


@dataclass(frozen=True)
class _Found:
    """Slopes and intercepts of one call, for every channel that is kept."""

    slope: Tensor
    intercept: Tensor


class ChannelNorms(TorchFunctionMode):
    """Compares, during a forward of the unpruned model, what norms give with what they will give without the channels that go."""

    def __init__(self, original: nn.Module, kept: Kept) -> None:
        """Look at the norms of `original` that lose channels.

        Args:
            original: The unpruned model.
            kept: Which channels are left.
        """
        super().__init__()
        self._kept = kept
        self._names = {id(own): name for name, own in original.named_parameters()}
        self._found: dict[tuple[str, str | None], list[_Found]] = defaultdict(list)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and compare where it is a norm."""
        kwargs = kwargs or {}
        if func in _NORMS:
            given = _NORMS[func].bind(*args, **kwargs).arguments
            weight, bias = given.get("weight"), given.get("bias")
            name = self._names.get(id(weight))
            mask = None if name is None else self._kept.along(name, 0)
            if weight is not None and name is not None and mask is not None and bool(mask.any()) and not bool(mask.all()):
                found = _compared(func, given, mask.to(weight.device), centered=bias is not None)
                if found is not None:
                    self._found[name, self._names.get(id(bias))].append(found)
        return func(*args, **kwargs)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Change the norms of the pruned `model` in place; of one that was called several times, by the average."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for (weight, bias), found in self._found.items():
            own = parameters[weight]
            slope, intercept = (
                torch.stack(values).mean(0).to(own)
                for values in zip(*((each.slope, each.intercept) for each in found), strict=True)
            )
            if bias is not None:
                parameters[bias].add_(own * intercept)
            own.mul_(slope)


_NORMS = {func: inspect.signature(func) for func in (F.layer_norm, F.group_norm, F.rms_norm)}


def _compared(func: Callable[..., Any], given: dict[str, Any], mask: Tensor, *, centered: bool) -> _Found | None:
    """The regression of one call; None where groups would differ in size, or where a norm is not over channels alone."""
    groups = given.get("num_groups", 1)
    sizes = mask.view(groups, -1).sum(1)
    left = sizes[sizes > 0]
    if bool((left != left[0]).any()) or len(given.get("normalized_shape", (0,))) != 1:
        return None
    axis = 1 if func is F.group_norm else -1
    chosen = given["input"].index_select(axis, mask.nonzero().squeeze(1))
    whole = given | {"weight": None, "bias": None}
    shape = {"num_groups": len(left)} if func is F.group_norm else {"normalized_shape": (int(left[0]),)}
    part = whole | shape | {"input": chosen}
    if func is F.rms_norm:
        whole.pop("bias"), part.pop("bias")
    wanted = func(**whole).index_select(axis, mask.nonzero().squeeze(1))
    rows = [own.movedim(axis, 0).reshape(len(left), -1).double() for own in (wanted, func(**part))]
    means = [own.mean(1, keepdim=True) if centered else own.new_zeros(len(left), 1) for own in rows]
    z, without = (own - mean for own, mean in zip(rows, means, strict=True))
    slope = (z * without).sum(1, keepdim=True) / without.square().sum(1, keepdim=True).clamp_min(1e-30)
    intercept = means[0] - slope * means[1]
    return _Found(*(own.expand(-1, int(left[0])).flatten() for own in (slope, intercept)))
