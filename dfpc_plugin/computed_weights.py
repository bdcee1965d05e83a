"""Weights that torch computes from other tensors: by parametrizations, or by its older hooks.

Pruning removes channels from the original tensors; the weight follows.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dfpc_plugin.analyses.demands import COMPUTED, WITHOUT_DATA
from dfpc_plugin.interrupts import undone

_PARAMETRIZATIONS = ".parametrizations."


def computed_by_hooks(module: nn.Module) -> dict[str, Tensor]:
    """Compute the weights, by attribute, that torch's hooks would set before the next forward; `module` is not changed."""
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, hook in _hooked(module).items():
            if isinstance(hook, WeightNorm):
                found[name] = hook.compute_weight(module)
            elif isinstance(hook, SpectralNorm):
                found[name] = hook.compute_weight(module, do_power_iteration=False)
            else:
                found[name] = hook.apply_mask(module)
    return found


def layer_of_original(model: nn.Module, path: str) -> str | None:
    """Name the layer whose weight torch computes from the parameter at `path`; None for an ordinary parameter."""
    layer, parametrized, _ = path.partition(_PARAMETRIZATIONS)
    if parametrized:
        return layer
    layer, _, name = path.rpartition(".")
    if isinstance(getattr(model.get_submodule(layer), name, None), nn.Module):
        return None
    return layer if any(name.startswith(f"{weight}_") for weight in _hooked(model.get_submodule(layer))) else None


def advised(reason: str, model: nn.Module) -> str:
    """Return why channels are protected, with advice if a computed weight is the reason."""
    place = re.search(f"in '([^']*)'({re.escape(WITHOUT_DATA)}|{re.escape(COMPUTED)})", reason)
    advice = None if place is None else advice_for(model, place[1])
    make = "to prune the layer, make its weight an ordinary parameter first"
    return reason if advice is None else f"{reason}; {make}: {advice}"


def advice_for(model: nn.Module, layer: str) -> str | None:
    """Return how to make the computed weights of a layer (or module inside its parametrizations) ordinary, or None."""
    layer, _, inside = layer.partition(_PARAMETRIZATIONS)
    try:
        module = model.get_submodule(layer)
    except AttributeError:
        return None
    where = f"model.get_submodule({layer!r})"
    if parametrize.is_parametrized(module):
        weight = inside.partition(".")[0] or next(iter(module.parametrizations))  # type: ignore[arg-type]
        return f"torch.nn.utils.parametrize.remove_parametrizations({where}, {weight!r})"
    for weight, hook in _hooked(module).items():
        if isinstance(hook, BasePruningMethod):
            return f"torch.nn.utils.prune.remove({where}, {weight!r})"
        norm = "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
        return f"torch.nn.utils.remove_{norm}({where}, {weight!r})"
    return None


@contextlib.contextmanager
def parametrizations_at_rest(module: nn.Module) -> Iterator[None]:
    """Allow reading weights of `module` without changes: in training, a spectral norm iterates whenever it is read."""
    inner = list(module.parametrizations.modules()) if parametrize.is_parametrized(module) else []  # type: ignore[union-attr]
    training = [part for part in inner if part.training]

    def restore() -> None:
        for part in training:
            part.training = True

    with undone(restore):
        for part in training:
            part.training = False
        yield


def _hooked(module: nn.Module) -> dict[str, WeightNorm | SpectralNorm | BasePruningMethod]:
    """Hooks of torch that compute weights of `module`, by the weight's name."""
    hooks = [
        h for h in module._forward_pre_hooks.values() if isinstance(h, WeightNorm | SpectralNorm | BasePruningMethod)
    ]
    return {hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name: hook for hook in hooks}
