"""Copies of a model with some channels gone, to measure before the model itself is cut."""

from __future__ import annotations

import copy
import dataclasses

from torch import Tensor, nn

from dfpc_plugin.couplings import CouplingMap
from dfpc_plugin.surgery import cut

__all__ = ["pruned_copy"]


def pruned_copy(model: nn.Module, couplings: CouplingMap, channels: Tensor) -> nn.Module:
    """Return a copy of `model` without some channels; neither the model nor what is known of it changes.

    Args:
        model: A model, as `couplings` knows it.
        couplings: Its couplings.
        channels: Numbers of the channels to leave out.

    Raises:
        CutError: The forward could not follow.
    """
    known = couplings.channels
    channels_of_copy = dataclasses.replace(known, removed=known.removed.clone(), values=dict(known.values))
    result = copy.deepcopy(model)
    cut(result, dataclasses.replace(couplings, channels=channels_of_copy), channels)
    return result
