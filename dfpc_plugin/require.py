"""Import optional packages when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from dfpc_plugin.errors import MissingDependencyError


def require(module: str, package: str, extra: str) -> ModuleType:
    """Import `module` of the optional `package`, or raise MissingDependencyError, which names this project's `extra`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top_level = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top_level:
            raise  # the package is installed, but one of its own imports fails
        raise MissingDependencyError(package, extra) from error
