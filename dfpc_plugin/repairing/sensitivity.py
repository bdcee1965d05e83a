"""How much an error of a layer's outputs changes the outputs of the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dfpc_plugin.analyses.bounds import Bounds


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """The sensitivity of the model's outputs to one layer, summed over its calls.

    Attributes:
        weights: `(outputs,)`, float64: the change of the model outputs, as a share of their variance, per variance of
            each output, summed over positions.
        share: The share that passes through the layer in total.
    """

    weights: Tensor
    share: float


def sensitivities(bounds: Bounds) -> dict[str, Sensitivity]:
    """Return every layer's sensitivity by name, from the flow `variances to outputs`; see `bgsc`'s ranking `output`."""
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
