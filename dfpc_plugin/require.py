"""Import optional packages when they are needed, and say which versions of packages are installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from types import ModuleType

from dfpc_plugin.errors import MissingDependencyError

_PACKAGES = ("dfpc-plugin", "torch", "timm", "torchvision", "torch-pruning", "safetensors")
"""What results and saved models depend on."""


def require(module: str, package: str, extra: str, what: str = "This") -> ModuleType:
    """Import `module` of the optional `package`, or raise MissingDependencyError.

    The error names `what` needs the package, and this project's `extra` that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top_level = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top_level:
            raise  # the package is installed, but one of its own imports fails
        raise MissingDependencyError(package, extra, what) from error


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries, by import name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package.replace("-", "_")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # such as a copy of the sources
    return found
