"""Views of results in notebooks: HTML, of which `report.notebook` registers one for every type, and SVG pictures."""

from __future__ import annotations

import functools
import html
import importlib
import re

from dfpc_plugin.display.text import TERMINAL_WIDTH

_NOTEBOOK_WIDTH = 100


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


class ShownAsText:
    """Base class of results that are shown as text of a given width, in notebooks too."""

    def text(self, width: int = TERMINAL_WIDTH) -> str:
        """Return the result as text for a terminal of so many columns."""
        raise NotImplementedError

    def __str__(self) -> str:
        """The text, 80 columns wide."""
        return self.text()

    def _repr_html_(self) -> str:
        """Called by notebooks."""
        return f"<pre>{html.escape(self.text(_NOTEBOOK_WIDTH))}</pre>"


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
