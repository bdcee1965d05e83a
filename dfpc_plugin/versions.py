"""Versions of the packages that results and saved models depend on."""

from __future__ import annotations

import importlib.metadata
import platform

_PACKAGES = ("dfpc-plugin", "torch", "timm", "torchvision", "torch-pruning", "safetensors")


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries, by import name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package.replace("-", "_")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # such as a copy of the sources
    return found
