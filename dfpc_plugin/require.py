"""Import optional packages when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from dfpc_plugin.errors import MissingDependencyError


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
