"""Losses, which some models return beside their outputs when given targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfpc_plugin.analyses.bounds import LayerContext
from dfpc_plugin.analyses.channel_call import ChannelCall
from dfpc_plugin.ops.record import operator
from dfpc_plugin.tracing.operator import present
from dfpc_plugin.tracing.proxy import is_data

_NAMES = (
    "binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy ctc_loss gaussian_nll_loss "
    "hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss "
    "multilabel_soft_margin_loss nll_loss poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss"
).split()


def _loss_channels(call: ChannelCall, *args: Any, **kwargs: Any) -> Any:
    """Protect the operands' channels: they are compared with targets position by position."""
    return call.opaque(f"is compared with a target in {call.where}")


@operator(*present(*_NAMES), channels=_loss_channels, kind="reduces", context=True)
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
