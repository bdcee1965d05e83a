"""Images in folders, and in zip archives that are read without unpacking them."""

from __future__ import annotations

import io
import lzma
import os
import posixpath
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from dfpc_plugin.data.images import LARGEST_FILE, DataError, Images, read_image
from dfpc_plugin.data.layout import Layout

_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, KeyError, ValueError, RuntimeError)
"""What zipfile raises: KeyError if the archive was replaced, RuntimeError for encryption and unknown compression."""


class ArchiveImages(Images):
    """The images of one split of a zip archive, one folder for each class at any depth.

    Every process opens the archive itself, as processes with a shared file would move each other's position.
    """

    def __init__(self, path: Path, split: str, *, labelled: bool = True) -> None:
        """List the images; nothing is unpacked. With `labelled=False`, no folders of classes are needed.

        Raises DataError if it is not an archive, or has no images.
        """
        self.source, self._path = f"the archive '{path}'", path
        try:
            with zipfile.ZipFile(path) as archive:
                files = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
                folders = {entry.filename.rstrip("/") for entry in archive.infolist() if entry.is_dir()}
        except _DAMAGE as error:
            raise DataError(
                f"'{path}' is no zip archive that can be read: {error}. Give a folder or a zip of images."
            ) from error
        empty = sorted(folders.difference(posixpath.dirname(name) for name in (*files, *folders)))
        layout = Layout.of(files, split, self.source, empty, labelled=labelled)
        self._paths, self.classes, self.labels = layout.paths, layout.classes, layout.labels
        self._archive: zipfile.ZipFile | None = None
        self._process = 0

    def load(self, index: int) -> Image.Image:
        """Read an image."""
        try:
            entry = self._opened().getinfo(self._paths[index])
            if entry.file_size > LARGEST_FILE:
                raise OSError(f"it has more than {LARGEST_FILE} bytes")
            content = self._opened().read(entry)
        except _DAMAGE as error:
            raise OSError(f"the archive is damaged there, encrypted, or of another kind ({error})") from error
        return read_image(io.BytesIO(content))

    def name(self, index: int) -> str:
        """Its path in the archive."""
        return self._paths[index]

    def _opened(self) -> zipfile.ZipFile:
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self._path), os.getpid()
        return self._archive

    def __getstate__(self) -> dict[str, Any]:
        """The state without the open file, which every process opens itself."""
        return self.__dict__ | {"_archive": None}


class FolderImages(Images):
    """The images of one split of a folder, one folder for each class."""

    def __init__(self, folder: Path, split: str, *, labelled: bool = True) -> None:
        """List the images; nothing is read yet, and DataError is raised if there are none.

        With `labelled=False`, no folders of classes are needed.
        """
        self.source, self._folder = f"the folder '{folder}'", folder
        paths = list(folder.rglob("*"))
        files = [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
        inside = {path.parent for path in paths}
        empty = [path.relative_to(folder).as_posix() for path in paths if path.is_dir() and path not in inside]
        layout = Layout.of(files, split, self.source, empty, labelled=labelled)
        self._paths, self.classes, self.labels = layout.paths, layout.classes, layout.labels

    def load(self, index: int) -> Image.Image:
        """Read an image."""
        path = self._folder / self._paths[index]
        if path.stat().st_size > LARGEST_FILE:
            raise OSError(f"it has more than {LARGEST_FILE} bytes")
        return read_image(path)

    def name(self, index: int) -> str:
        """Its path in the folder."""
        return self._paths[index]
