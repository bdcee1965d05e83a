"""The interface of a source of images, and how a file becomes an image."""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from PIL import Image

from dfpc_plugin.errors import DFPCError

Split = Literal["train", "val", "test"]
LARGEST_FILE = 2**28
"""Largest size of an image file in bytes."""
_MOST_PIXELS = 2**26
_DAMAGE = (
    Image.DecompressionBombError, Image.DecompressionBombWarning, ArithmeticError, EOFError, LookupError, RuntimeError, SyntaxError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders raise on broken files, beside OSError."""
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow decodes itself; others it passes to programs, such as PostScript to Ghostscript."""


class DataError(DFPCError, ValueError):
    """Images are missing, cannot be read, or do not fit the model."""


def check_split(split: str | None) -> None:
    """Raise DataError unless `split` is "train", "val" or "test"."""
    if split not in get_args(Split):
        raise DataError(f"split={split!r} is none of {', '.join(get_args(Split))}; choose one of them.")


def read_image(file: Path | BinaryIO) -> Image.Image:
    """Read an image; the format is found from the content, not from the name.

    Raises OSError if it has another format, or is damaged or very large.
    """
    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise OSError(f"it has {image.width} x {image.height} pixels, and at most {_MOST_PIXELS} are read")
            image.load()
            return image
    except _DAMAGE as error:
        raise OSError(str(error).rstrip(".") or type(error).__name__) from error


class Images(ABC):
    """Images with labels, read one by one.

    Attributes:
        source: Where they come from, in the user's words.
        classes: Names of the classes; the label is the index.
        labels: The label of every image.
    """

    source: str
    classes: tuple[str, ...]
    labels: tuple[int, ...]

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Read an image."""

    def name(self, index: int) -> str:
        """The name of an image in messages: by default its number in the split."""
        return str(index)
