"""Build the unpruned model that a saved one is made from, and leave no trace of that in the process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import nn

from dfpc_plugin.artifact.errors import ArtifactError
from dfpc_plugin.artifact.limits import BuildLimit
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.interrupts import undone
from dfpc_plugin.models import ModelSpec, build_model

__all__ = ["Factory", "built", "unpruned"]

_building = threading.RLock()
Factory = Callable[[], nn.Module]
"""Builds the unpruned model, a new one at every call."""


def unpruned(spec: ModelSpec) -> tuple[Factory, Factory]:
    """Functions that build the model of `spec`: with random weights, and without any, on the meta device."""
    return lambda: build_model(spec), lambda: build_model(spec, meta=True)


def built(factory: Factory, limit: BuildLimit | None = None) -> nn.Module:
    """Call a factory; random states, default dtype, device and gradient mode are left as they were, and do not matter.

    Args:
        factory: Builds a model.
        limit: What it may cost.

    Raises:
        ArtifactError: It fails, or returns no model.
    """
    with _undisturbed(), limit or contextlib.nullcontext():
        try:
            model = factory()
        except Exception as error:  # whatever somebody's constructor raises
            if limit is not None and limit.reached is not None:
                raise limit.reached from error
            raise ArtifactError(
                f"the unpruned model cannot be built: {str(error).rstrip('.') or type(error).__name__}"
            ) from error
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"the factory returned a {type(model).__name__}, and a model is wanted")
    return model


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what constructors read and change of the process."""
    with _building:  # torch has one default dtype for all threads
        dtype = torch.get_default_dtype()
        with undone(lambda: torch.set_default_dtype(dtype)), generators_kept():
            torch.set_default_dtype(torch.float32)
            with torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
                yield
