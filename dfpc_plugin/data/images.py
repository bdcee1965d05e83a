"""What every source of images offers."""

from __future__ import annotations

from typing import Protocol

from PIL import Image

__all__ = ["Images"]


class Images(Protocol):
    """Images with labels, read one by one.

    Attributes:
        source: Where they come from, in the user's words.
        classes: Names of the classes; the label is the index.
        labels: The label of every image.
    """

    source: str
    classes: tuple[str, ...]
    labels: tuple[int, ...]

    def load(self, index: int) -> Image.Image:
        """Read an image."""
        ...

    def name(self, index: int) -> str:
        """What to call an image in a message."""
        ...
