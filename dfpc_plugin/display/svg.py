"""Pictures as SVG."""

from __future__ import annotations

import re


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
