"""Small image files in ImageFolder layout, each of one colour that says which it is."""

import io
import zipfile
from pathlib import Path

from PIL import Image

__all__ = ["shade", "write_folder", "write_zip"]


def shade(number):
    """The colour of image `number`."""
    return (number % 256, (number * 7) % 256, 30)


def png(number, size=(8, 8)):
    stream = io.BytesIO()
    Image.new("RGB", size, shade(number)).save(stream, "PNG")
    return stream.getvalue()


def write_folder(root: Path, names):
    """Write image `n` to the `n`-th of the names."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


def write_zip(path: Path, names, compression=zipfile.ZIP_STORED):
    """The same into an archive."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, png(number))
    return path
