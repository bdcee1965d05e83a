"""How much an error of a layer's outputs matters at the outputs of the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dfpc_plugin.analyses.bounds import Bounds

__all__ = ["Sensitivity", "sensitivities"]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Of one layer, summed over its calls.

    Attributes:
        weights: `(outputs,)`, float64: the share of the model outputs' variance per variance of every output, over positions.
        share: The share that goes through the layer in all.
    """

    weights: Tensor
    share: float


def sensitivities(bounds: Bounds) -> dict[str, Sensitivity]:
    """Return the sensitivity of every layer by its name: see the ranking `output` of `bgsc`.

    Args:
        bounds: What has flowed through a model, `variances to outputs`.
    """
    found: dict[str, Sensitivity] = {}
    for writer, gradient in zip(bounds.writers, bounds.output_shares(), strict=False):
        if gradient is None:
            continue
        weights, share = writer.per_channel(gradient), float((gradient * writer.leaf.detach()).sum())
        before = found.get(writer.name)
        if before is not None:
            weights, share = weights + before.weights, share + before.share
        found[writer.name] = Sensitivity(weights, share)
    return found
