"""Build models."""

from __future__ import annotations

import torch
from torch import nn

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.models.catalogue import library_of, require_known
from dfpc_plugin.models.spec import ModelOptionError, ModelSpec

__all__ = ["WeightsError", "build_model", "create_model"]


class WeightsError(DFPCError):
    """The weights of a model cannot be had."""


def build_model(spec: ModelSpec | str, *, pretrained: bool = False, meta: bool = False) -> nn.Module:
    """Build a model.

    Args:
        spec: How, or its name alone.
        pretrained: Load the weights that timm or torchvision hold for it; otherwise weights are random. A function of your
            own is called with pretrained=True.
        meta: Build on the meta device, where a model has shapes and no weights: fast, whatever its size.

    Raises:
        UnknownModelError: No library has it; the message names the nearest.
        ModelOptionError: It cannot be built with these options.
        WeightsError: `pretrained` was asked for, and there are no weights or they cannot be loaded.
    """
    spec = ModelSpec(spec) if isinstance(spec, str) else spec
    if pretrained and meta:
        raise WeightsError("A model on the meta device has no weights; ask for pretrained or for meta, not both.")
    require_known(spec.name)
    if pretrained:
        return _pretrained(spec)
    return _on_meta(spec) if meta else _built(spec)


def create_model(name: str, *, pretrained: bool = False, meta: bool = False) -> nn.Module:
    """Build a model by its name, as `build_model` does."""
    return build_model(ModelSpec(name), pretrained=pretrained, meta=meta)


def _pretrained(spec: ModelSpec) -> nn.Module:
    try:
        return library_of(spec.name).build(spec.name, spec.options, pretrained=True)
    except Exception as error:  # the network, the cache, the checkpoint: each library reports these in its own way
        raise WeightsError(
            f"The pretrained weights of '{spec.name}' could not be loaded ({type(error).__name__}: {error}); check the "
            f"connection and the name's tag, or use random weights or a file."
        ) from error


def _built(spec: ModelSpec) -> nn.Module:
    try:
        return library_of(spec.name).build(spec.name, spec.options, pretrained=False)
    except Exception as error:  # whatever a constructor makes of options that it was not written for
        if not spec.options and not spec.own_code:
            raise
        options = ", ".join(f"{key}={value!r}" for key, value in spec.options.items())
        raise ModelOptionError(
            f"'{spec.name}' cannot be built with {options or 'no options'} ({type(error).__name__}: {error}); check its options."
        ) from error


def _on_meta(spec: ModelSpec) -> nn.Module:
    """Build without weights; some constructors compute with values, so their model is made first and emptied after."""
    try:
        with torch.device("meta"):
            return library_of(spec.name).build(spec.name, spec.options, pretrained=False)
    except (RuntimeError, TypeError, ValueError):
        return _built(spec).to("meta")
