"""Split `nn.MultiheadAttention` into linear layers around attention, so that each can be repaired."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SIGNATURE = inspect.signature(F.multi_head_attention_forward)
Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def split_attention(linear: Linear, attend: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Compute `F.multi_head_attention_forward(*args, **kwargs)`, calling `linear` for its four projections.

    `attend`, which is that function or calls it, computes the rest (heads, masks, added keys) with identity
    projections.
    """
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if given["use_separate_proj_weight"]:
        weights = [given[f"{part}_proj_weight"] for part in "qkv"]
    else:
        weights = list(given["in_proj_weight"].chunk(3))
    biases = [None] * 3 if given["in_proj_bias"] is None else list(given["in_proj_bias"].chunk(3))
    inputs = [given["query"], given["key"], given["value"]]
    projected = [linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
    nothing = torch.eye(given["embed_dim_to_check"], dtype=projected[0].dtype, device=projected[0].device)
    out_weight, out_bias = given["out_proj_weight"], given["out_proj_bias"]
    given.update(zip(("query", "key", "value"), projected, strict=True))
    given.update(in_proj_weight=None, in_proj_bias=None, use_separate_proj_weight=True, out_proj_bias=None)
    given.update(dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj_weight"), nothing))
    mixed, attention = attend(*bound.args, **bound.kwargs)
    return linear(mixed, out_weight, out_bias), attention
