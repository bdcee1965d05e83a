"""Copies of a model, for scoring and measuring before the model itself is pruned."""

from __future__ import annotations

import copy
import dataclasses

from torch import Tensor, nn

from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.surgery.cut import cut


def copy_of(model: nn.Module) -> nn.Module:
    """Copy a model with its gradients, which some importances use.

    Weights computed by a hook are copied as values, as torch cannot copy tensors with a gradient history.
    """
    with exclusive(model):
        attributes = (value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor))
        computed = {id(value): value.detach().clone() for value in attributes if not value.is_leaf}
        result = copy.deepcopy(model, computed)
        for own, other in zip(model.parameters(), result.parameters(), strict=True):
            other.grad = None if own.grad is None else own.grad.clone()
        return result


def kept_state(couplings: CouplingMap) -> CouplingMap:
    """Return a copy of the couplings that later pruning of the model does not change."""
    known = couplings.channels
    channels = dataclasses.replace(known, removed=known.removed.clone(), values=dict(known.values))
    return dataclasses.replace(couplings, channels=channels)


def pruned_copy(model: nn.Module, couplings: CouplingMap, channels: Tensor) -> nn.Module:
    """Return a copy of `model` without `channels` (their numbers), or raise CutError; `couplings` is not changed."""
    result = copy_of(model)
    cut(result, kept_state(couplings), channels)
    return result
