"""Versions of what results and saved models depend on."""

from __future__ import annotations

import importlib.metadata
import platform

__all__ = ["installed_versions"]

_PACKAGES = ("dfpc-plugin", "torch", "timm", "torchvision", "torch-pruning", "safetensors")


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries, as far as they are installed, by their import names."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package.replace("-", "_")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a copy of the sources, say
    return found
