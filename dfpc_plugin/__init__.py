"""Data-free structured pruning (DFPC) for any timm or torchvision model, inside Torch-Pruning."""

import importlib
import importlib.util
import random
from typing import Any

import lazy_loader

import dfpc_plugin.starting  # noqa: F401  # before any name that imports torch

_state = random.getstate()
import rich.style  # noqa: E402, F401  # which draws a random number when it is first imported

random.setstate(_state)

__version__ = "0.1.0"

# Public names are listed in `__init__.pyi` and imported when they are first used: `dfpc --help` needs none of them.
_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a public name or a module of the package."""
    if name in __all__:
        return _public_name(name)
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
