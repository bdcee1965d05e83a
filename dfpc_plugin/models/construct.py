"""Build a model by its library."""

from __future__ import annotations

import torch
from torch import nn

from dfpc_plugin.models.catalogue import library_of, require_known
from dfpc_plugin.models.checkpoint import WeightsError
from dfpc_plugin.models.spec import ModelOptionError, ModelSpec


def construct(spec: ModelSpec, *, pretrained: bool = False, meta: bool = False) -> nn.Module:
    """Build a model with random or pretrained weights; options and errors are as for `build_model`."""
    if pretrained and meta:
        raise WeightsError("A model on the meta device has no weights; ask for pretrained or for meta, not both.")
    require_known(spec.name)
    if pretrained:
        return _pretrained(spec)
    return _on_meta(spec) if meta else _built(spec)


def _pretrained(spec: ModelSpec) -> nn.Module:
    try:
        return library_of(spec.name).build(spec.name, spec.options, pretrained=True)
    except Exception as error:  # each library has its own errors for network, cache and checkpoint
        raise WeightsError(
            f"The pretrained weights of '{spec.name}' could not be loaded ({type(error).__name__}: {error}); check the "
            f"connection and the name's tag, or use random weights or a file."
        ) from error


def _built(spec: ModelSpec) -> nn.Module:
    try:
        return library_of(spec.name).build(spec.name, spec.options, pretrained=False)
    except Exception as error:  # a constructor can raise anything on unexpected options
        if not spec.options and not spec.own_code:
            raise
        options = ", ".join(f"{key}={value!r}" for key, value in spec.options.items())
        raise ModelOptionError(
            f"'{spec.name}' cannot be built with {options or 'no options'} ({type(error).__name__}: {error}); check its options."
        ) from error


def _on_meta(spec: ModelSpec) -> nn.Module:
    """Build without weights. Models whose constructors compute with values are built first and then moved to meta."""
    try:
        with torch.device("meta"):
            return library_of(spec.name).build(spec.name, spec.options, pretrained=False)
    except (RuntimeError, TypeError, ValueError):
        return _built(spec).to("meta")
