"""Integer attributes that state a layer's or model's widths: the forward need not use them, but libraries and people do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dfpc_plugin.analyses.width_attributes import WIDTH


def _statistics(module: Any) -> Mapping[str, int]:
    vectors = [v for v in (module.weight, module.running_mean) if v is not None]
    return {"num_features": vectors[0].numel()} if vectors else {}


def _attention(module: Any) -> Mapping[str, int]:
    inputs = module.q_proj_weight if module.in_proj_weight is None else module.in_proj_weight
    sizes = {"embed_dim": inputs.size(1), "head_dim": module.out_proj.weight.size(1) // module.num_heads}
    separate = {"kdim": module.k_proj_weight, "vdim": module.v_proj_weight}
    return sizes | {name: sizes["embed_dim"] if w is None else w.size(1) for name, w in separate.items()}


def _convolution(module: Any) -> Mapping[str, int]:
    """Widths, and the groups of a depthwise convolution, whose forward may use its weight alone."""
    outputs, inputs = module.weight.shape[:2]
    if module.groups == module.in_channels == module.out_channels > 1 and inputs == 1:
        return {"out_channels": outputs, "in_channels": outputs, "groups": outputs}
    return {"out_channels": outputs, "in_channels": inputs * module.groups}


_DESCRIPTIONS: tuple[tuple[tuple[type[nn.Module], ...], Callable[[Any], Mapping[str, int]]], ...] = (
    ((nn.Linear,), lambda m: {"out_features": m.weight.size(0), "in_features": m.weight.size(1)}),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
     lambda m: {"in_channels": m.weight.size(0), "out_channels": m.weight.size(1) * m.groups}),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    ((nn.modules.batchnorm._NormBase,), _statistics),
    ((nn.GroupNorm,), lambda m: {"num_channels": m.weight.numel()} if m.weight is not None else {}),
    ((nn.Embedding,), lambda m: {"num_embeddings": m.weight.size(0), "embedding_dim": m.weight.size(1)}),
    ((nn.RNNBase,), lambda m: {"input_size": m.weight_ih_l0.size(1), "hidden_size": m.weight_hh_l0.size(1)}),
    ((nn.MultiheadAttention,), _attention),
    ((nn.PReLU,), lambda m: {"num_parameters": m.weight.numel()}),
)  # fmt: skip


def described(module: nn.Module) -> Mapping[str, int]:
    """Return the attributes that state a layer's widths, read from its weights; empty for other modules."""
    return next((describe(module) for types, describe in _DESCRIPTIONS if isinstance(module, types)), {})


def stated_in(value: Any, entry: int | None) -> Any:
    """Return the width in an attribute, or in entry `entry` of a list or of the list in its `info`; None if there is none."""
    if entry is None:
        return value
    entries = getattr(value, "__dict__", {}).get("info", value)
    found = entries[entry] if isinstance(entries, list | tuple) and entry < len(entries) else None
    return found.get(WIDTH) if isinstance(found, Mapping) else found


def restated(value: Any, entry: int | None, width: int) -> Any:
    """Return a copy of the attribute's value with another width, as others may share the present object."""
    if entry is None:
        return width
    if "info" in getattr(value, "__dict__", {}):
        result = copy.copy(value)
        result.info = restated(value.info, entry, width)
        return result
    entries = list(value)
    entries[entry] = {**entries[entry], WIDTH: width} if isinstance(entries[entry], Mapping) else width
    return type(value)(entries)
