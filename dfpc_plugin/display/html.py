"""Views of results in notebooks: HTML, of which `report.notebook` registers one for every type, and SVG pictures."""

from __future__ import annotations

import functools
import importlib
import re


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


class Svg(str):
    """The text of an SVG picture, which notebooks show as a picture."""

    def _repr_svg_(self) -> str:
        """Called by notebooks."""
        return str(self)

    def __repr__(self) -> str:
        """Show the size instead of the text."""
        size = re.search(r'width="([\d.]+)" height="([\d.]+)"', self)
        shown = f"{size[1]} x {size[2]}, " if size else ""
        return f"<SVG picture, {shown}{len(self):,} characters>"
