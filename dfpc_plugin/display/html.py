"""HTML views of results in notebooks; `report.notebook` registers one for every type that has a view."""

from __future__ import annotations

import functools
import importlib


@functools.singledispatch
def as_html(result: object) -> str | None:
    """Return `result` as HTML for a notebook; None if its type has no view, so that the notebook shows its `repr`."""
    return None


class Shown:
    """Base class of results that notebooks show as HTML."""

    def _repr_html_(self) -> str | None:
        """Called by notebooks."""
        importlib.import_module("dfpc_plugin.report.notebook")  # loads the views only when one is needed
        return as_html(self)
