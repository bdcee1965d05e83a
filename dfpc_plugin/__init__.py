"""Data-free structured pruning (DFPC) for any timm or torchvision model, inside Torch-Pruning."""

import importlib
import importlib.util
import random
from typing import Any

import lazy_loader

import dfpc_plugin.starting  # noqa: F401  # before any name that imports torch

__version__ = "0.1.0"

# Public names are listed in `__init__.pyi` and imported when they are first used: `dfpc --help` needs none of them.
_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a public name or a module of the package, and leave Python's random numbers alone, which some libraries draw from."""
    state = random.getstate()
    try:
        if name in __all__:
            return _public_name(name)
        if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
            return importlib.import_module(f"{__name__}.{name}")
    finally:
        random.setstate(state)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
