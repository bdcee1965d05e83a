"""Copies of a model, to score and to measure before the model itself is cut."""

from __future__ import annotations

import copy
import dataclasses

from torch import Tensor, nn

from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.preserve import exclusive
from dfpc_plugin.surgery.cut import cut

__all__ = ["copy_of", "kept_state", "pruned_copy"]


def copy_of(model: nn.Module) -> nn.Module:
    """Copy a model with its gradients, which some importances score by.

    Weights that a hook has computed, which torch refuses to copy as they have a history, are copied as values.
    """
    with exclusive(model):
        return _copied(model)


def _copied(model: nn.Module) -> nn.Module:
    attributes = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    computed = {id(value): value.detach().clone() for value in attributes if not value.is_leaf}
    result = copy.deepcopy(model, computed)
    for own, other in zip(model.parameters(), result.parameters(), strict=True):
        other.grad = None if own.grad is None else own.grad.clone()
    return result


def kept_state(couplings: CouplingMap) -> CouplingMap:
    """What is known of a model now, which later cuts of that model do not change."""
    known = couplings.channels
    channels = dataclasses.replace(known, removed=known.removed.clone(), values=dict(known.values))
    return dataclasses.replace(couplings, channels=channels)


def pruned_copy(model: nn.Module, couplings: CouplingMap, channels: Tensor) -> nn.Module:
    """Return a copy of `model` without some channels; neither the model nor what is known of it changes.

    Args:
        model: A model, as `couplings` knows it.
        couplings: Its couplings.
        channels: Numbers of the channels to leave out.

    Raises:
        CutError: The forward could not follow.
    """
    result = copy_of(model)
    cut(result, kept_state(couplings), channels)
    return result
