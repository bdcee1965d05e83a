"""Images in folders and in zip archives, which are read without unpacking them; both in ImageFolder layout."""

from __future__ import annotations

import io
import lzma
import os
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from dfpc_plugin.data.images import LARGEST_FILE, DataError, Images, read_image

_FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "test", "testing"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
"""Possible folders of each split; the first that exists is used."""
_KNOWN = frozenset(name for names in _FOLDERS.values() for name in names)
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, KeyError, ValueError, RuntimeError)
"""What zipfile raises: KeyError if the archive was replaced, RuntimeError for encryption and unknown compression."""


class FileImages(Images):
    """The images of one split of a source of files in ImageFolder layout, one folder for each class at any depth."""

    def __init__(
        self, source: str, names: Sequence[str], split: str | None, empty: Sequence[str] = (), *, labelled: bool = True
    ) -> None:
        """Find the images of a split among the files `names` of a source: paths relative to it, with slashes.

        A source without folders of the splits' names is a single split, used for all three. `empty` are paths of empty
        folders; those beside folders of classes are classes without images. Unless labels are needed (`labelled`),
        images without folders of classes all get one class. None as `split` is train, or the only split there is. Raises
        DataError if there are no images, no classes, or no such split.
        """
        paths = [path for path in map(PurePosixPath, sorted(names)) if _is_image(path)]
        if not paths:
            raise DataError(
                f"There are no images in {source}; it should hold CLASS/NAME.jpg, or train/CLASS/NAME.jpg and so on."
            )
        chosen = _of_split(paths, split, source)
        loose = next((path for path in chosen if len(path.parts) < 2 or path.parent.name.lower() in _KNOWN), None)
        if loose is not None and labelled:
            raise DataError(
                f"The image '{loose}' of {source} lies in no folder of a class; move images into one folder for each class."
            )
        above = {path.parent.parent for path in chosen}
        beside = (path for path in map(PurePosixPath, empty) if path.parent in above and path.name[0] not in "._")
        classes = sorted({path.parent.name for path in chosen}.union(path.name for path in beside))
        numbers = {name: number for number, name in enumerate(classes)}
        self.source, self._paths = source, tuple(map(str, chosen))
        self.classes = tuple(classes) if loose is None else (source,)
        self.labels = tuple(0 if loose else numbers[path.parent.name] for path in chosen)

    def name(self, index: int) -> str:
        """Its path in the source."""
        return self._paths[index]


class ArchiveImages(FileImages):
    """The images of one split of a zip archive.

    Every process opens the archive itself, as processes with a shared file would move each other's position.
    """

    def __init__(self, path: Path, split: str | None, *, labelled: bool = True) -> None:
        """List the images; nothing is unpacked. With `labelled=False`, no folders of classes are needed.

        Raises DataError if it is not an archive, or has no images.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                files = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
                folders = {entry.filename.rstrip("/") for entry in archive.infolist() if entry.is_dir()}
        except _DAMAGE as error:
            raise DataError(
                f"'{path}' is no zip archive that can be read: {error}. Give a folder or a zip of images."
            ) from error
        empty = sorted(folders.difference(posixpath.dirname(name) for name in (*files, *folders)))
        super().__init__(f"the archive '{path}'", files, split, empty, labelled=labelled)
        self._path = path
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

    def _opened(self) -> zipfile.ZipFile:
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self._path), os.getpid()
        return self._archive

    def __getstate__(self) -> dict[str, Any]:
        """The state without the open file, which every process opens itself."""
        return self.__dict__ | {"_archive": None}


class FolderImages(FileImages):
    """The images of one split of a folder."""

    def __init__(self, folder: Path, split: str | None, *, labelled: bool = True) -> None:
        """List the images; nothing is read yet, and DataError is raised if there are none.

        With `labelled=False`, no folders of classes are needed.
        """
        paths = list(folder.rglob("*"))
        files = [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
        inside = {path.parent for path in paths}
        empty = [path.relative_to(folder).as_posix() for path in paths if path.is_dir() and path not in inside]
        super().__init__(f"the folder '{folder}'", files, split, empty, labelled=labelled)
        self._folder = folder

    def load(self, index: int) -> Image.Image:
        """Read an image."""
        path = self._folder / self._paths[index]
        if path.stat().st_size > LARGEST_FILE:
            raise OSError(f"it has more than {LARGEST_FILE} bytes")
        return read_image(path)


def _is_image(path: PurePosixPath) -> bool:
    """Whether a file is an image by its name; hidden files and those that macOS adds to archives are not."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in IMG_EXTENSIONS and not hidden


def _split_of(path: PurePosixPath) -> str | None:
    """The outermost folder with a split's name; a class's folder counts only if there is no other."""
    above = path.parts[:-2] or path.parts[:-1]
    return next((part.lower() for part in above if part.lower() in _KNOWN), None)


def _of_split(paths: Sequence[PurePosixPath], split: str | None, source: str) -> list[PurePosixPath]:
    """The paths of one split, or all if there are no splits; raises DataError if there are only others.

    None is train, or the only split there is.
    """
    found = {name for path in paths if (name := _split_of(path)) is not None}
    if not found:
        return list(paths)
    folder = next((name for name in _FOLDERS[split or "train"] if name in found), None)
    if folder is None and split is None and len(found) == 1:
        (folder,) = found
    if folder is None:
        there = [name for name, folders in _FOLDERS.items() if found.intersection(folders)]
        raise DataError(
            f"There is no split '{split or 'train'}' in {source}; it has {', '.join(sorted(found))}: give split {' or '.join(there)}."
        )
    return [path for path in paths if _split_of(path) == folder]
