"""Correct LayerNorm, GroupNorm and RMSNorm in a pruned model.

These norms divide by the standard deviation over their channels. Pruning removes some channels, so the deviation
changes, and with it the scale of all remaining channels.

Let z be a kept channel's normalised value in the unpruned model, and z' its value when only kept channels are
normalised. A regression over noise gives z ~ a z' + c, with one slope a and one intercept c per group of channels. A
norm with weight w and bias b should compute w (a z' + c) + b. So the weight becomes a w, and the bias becomes b + c w.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfpc_plugin.repairing.kept import Kept


class ChannelNorms(TorchFunctionMode):
    """Collects regressions during a forward of the unpruned model, and corrects the norms of the pruned one by them."""

    def __init__(self, original: nn.Module, kept: Kept) -> None:
        """Prepare for the norms of the unpruned model `original` that lose channels."""
        super().__init__()
        self._original, self._kept = original, kept
        self._names = {id(own): name for name, own in original.named_parameters()}
        self._found: dict[tuple[str, str | None], list[Tensor]] = defaultdict(list)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`. If it is a norm that loses channels, store its regression."""
        kwargs = kwargs or {}
        if func in _NORMS:
            given = _NORMS[func].bind(*args, **kwargs).arguments
            weight, bias = (self._names.get(id(given.get(name))) for name in ("weight", "bias"))
            mask = None if weight is None else self._remaining(weight)
            if weight is not None and mask is not None:
                found = _regression(func, given, mask.to(given["input"].device), with_intercept=bias is not None)
                if found is not None:
                    self._found[weight, bias].append(found)
        return func(*args, **kwargs)

    @property
    def needed(self) -> bool:
        """Whether there may be such norms: a parameter with one number per channel loses some, and is no bias."""
        return any(
            parameter.dim() == 1 and self._remaining(f"{path}.{name}".lstrip(".")) is not None
            for path, module in self._original.named_modules()
            if not isinstance(module, nn.modules.batchnorm._BatchNorm)
            for name, parameter in module.named_parameters(recurse=False)
            if name != "bias"
        )

    def _remaining(self, weight: str) -> Tensor | None:
        """Which channels remain, `(channels,)` of bool; None if all do, or none."""
        mask = self._kept.along(weight, 0)
        return mask if mask is not None and bool(mask.any()) and not bool(mask.all()) else None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Correct the norms of the pruned `model` in place. A norm with several calls gets their average."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for (weight, bias), found in self._found.items():
            own = parameters[weight]
            slope, intercept = torch.stack(found).mean(0).to(own)
            if bias is not None:
                parameters[bias].add_(own * intercept)
            own.mul_(slope)


_NORMS = {func: inspect.signature(func) for func in (F.layer_norm, F.group_norm, F.rms_norm)}


def _regression(
    func: Callable[..., Any], given: dict[str, Any], mask: Tensor, *, with_intercept: bool
) -> Tensor | None:
    """Regress the kept channels of one call, `mask` of shape `(channels,)`, on the norm of these channels alone.

    Returns slopes and intercepts, `(2, kept)`, which are zero if the norm has no bias. None if the remaining groups
    differ in size, or if the norm is over more than channels.
    """
    sizes = mask.view(given.get("num_groups", 1), -1).sum(1)
    sizes = sizes[sizes > 0]
    groups, size = len(sizes), int(sizes[0])
    if bool((sizes != size).any()) or len(given.get("normalized_shape", (0,))) != 1:
        return None
    axis, kept = (1 if func is F.group_norm else -1), mask.nonzero().squeeze(1)
    shape: dict[str, Any] = {"num_groups": groups} if func is F.group_norm else {"normalized_shape": (size,)}
    plain = {name: value for name, value in given.items() if name not in ("weight", "bias")}
    wanted = func(**plain).index_select(axis, kept)
    alone = func(**plain | shape | {"input": given["input"].index_select(axis, kept)})
    z, without = (own.movedim(axis, 0).reshape(groups, -1).double() for own in (wanted, alone))
    means = [own.mean(1, keepdim=True) * with_intercept for own in (z, without)]
    z, without = z - means[0], without - means[1]
    slope = (z * without).sum(1, keepdim=True) / without.square().sum(1, keepdim=True).clamp_min(1e-30)
    intercept = means[0] - slope * means[1]
    return torch.stack([own.expand(-1, size).flatten() for own in (slope, intercept)])
