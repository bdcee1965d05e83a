"""Build models."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dfpc_plugin.models.checkpoint import WeightsError, read_checkpoint
from dfpc_plugin.models.construct import construct
from dfpc_plugin.models.fitting import build_fitted
from dfpc_plugin.models.spec import ModelSpec


def build_model(
    spec: ModelSpec | str,
    *,
    pretrained: bool = False,
    weights: Path | str | None = None,
    ignore_surplus: bool = False,
    meta: bool = False,
) -> nn.Module:
    """Build a model.

    Args:
        spec: The model's name, or a `ModelSpec` with options.
        pretrained: Load the weights of timm or torchvision; otherwise weights are random. A function of your own is
            called with pretrained=True.
        weights: Load the weights of this checkpoint. The numbers of classes and input channels are taken from it,
            unless `spec` sets them.
        ignore_surplus: Ignore tensors of the checkpoint that the model does not have.
        meta: Build on the meta device, with shapes but no weights: fast for any size.

    Raises:
        UnknownModelError: No library has it; the message names the nearest.
        ModelOptionError: It cannot be built with these options.
        WeightsError: There are no such weights, they cannot be loaded, or they do not match the model.
    """
    spec = ModelSpec(spec) if isinstance(spec, str) else spec
    if weights is None:
        return construct(spec, pretrained=pretrained, meta=meta)
    if pretrained or meta:
        raise WeightsError("weights, pretrained and meta all say where weights come from; give one of them.")
    checkpoint = read_checkpoint(weights)
    return build_fitted(spec.name, spec.options, checkpoint, ignore_surplus=ignore_surplus).model


def create_model(name: str, *, pretrained: bool = False, meta: bool = False) -> nn.Module:
    """Build a model by its name, as `build_model` does."""
    return build_model(ModelSpec(name), pretrained=pretrained, meta=meta)
