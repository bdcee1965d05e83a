"""Have a library build a model."""

from __future__ import annotations

import torch
from torch import nn

from dfpc_plugin.models.catalogue import library_of, require_known
from dfpc_plugin.models.checkpoint import WeightsError
from dfpc_plugin.models.spec import ModelOptionError, ModelSpec

__all__ = ["construct"]


def construct(spec: ModelSpec, *, pretrained: bool = False, meta: bool = False) -> nn.Module:
    """Build a model with random weights, or those of its library; see `build_model`.

    Raises:
        UnknownModelError: No library has it; the message names the nearest.
        ModelOptionError: It cannot be built with these options.
        WeightsError: Its library has no weights for it, or they cannot be loaded.
    """
    if pretrained and meta:
        raise WeightsError("A model on the meta device has no weights; ask for pretrained or for meta, not both.")
    require_known(spec.name)
    if pretrained:
        return _pretrained(spec)
    return _on_meta(spec) if meta else _built(spec)


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
