"""How results look in notebooks: `report.notebook` registers a view for every type that has one."""

from __future__ import annotations

import functools
import importlib

__all__ = ["Shown", "as_html"]


@functools.singledispatch
def as_html(result: object) -> str | None:
    """Return `result` as HTML for a notebook; None if its type has no view, so that the notebook shows its `repr`."""
    return None


class Shown:
    """A result that notebooks show by its view."""

    def _repr_html_(self) -> str | None:
        """What notebooks look for."""
        importlib.import_module("dfpc_plugin.report.notebook")  # views are loaded when one is looked at
        return as_html(self)
