"""Pictures as SVG."""

from __future__ import annotations

import re

__all__ = ["Svg"]


class Svg(str):
    """The text of an SVG picture, which notebooks show as a picture; write it to a file as any text."""

    def _repr_svg_(self) -> str:
        """What notebooks look for."""
        return str(self)

    def __repr__(self) -> str:
        """Its size in place of its text."""
        size = re.search(r'width="([\d.]+)" height="([\d.]+)"', self)
        shown = f"{size[1]} x {size[2]}, " if size else ""
        return f"<SVG picture, {shown}{len(self):,} characters>"
