"""Optional packages, imported when they are needed and not before."""

from __future__ import annotations

import importlib
from types import ModuleType

from dfpc_plugin.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, package: str, extra: str) -> ModuleType:
    """Import and return `module`, which the installable `package` provides and this project's `extra` asks for.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top_level = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top_level:
            raise  # the package is there and one of its own imports is broken: another story
        raise MissingDependencyError(package, extra) from error
