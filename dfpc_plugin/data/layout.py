"""The ImageFolder layout: which files are images of which class and split, in folders and archives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, get_args

from torchvision.datasets.folder import IMG_EXTENSIONS

from dfpc_plugin.data.images import DataError

Split = Literal["train", "val", "test"]
_FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "test", "testing"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
"""Possible folders of each split; the first that exists is used."""
_KNOWN = frozenset(name for names in _FOLDERS.values() for name in names)


def check_split(split: str) -> None:
    """Raise DataError unless `split` is "train", "val" or "test"."""
    if split not in get_args(Split):
        raise DataError(f"split={split!r} is none of {', '.join(get_args(Split))}; choose one of them.")


@dataclass(frozen=True)
class Layout:
    """The images of one split.

    Attributes:
        paths: Their paths inside the source, sorted.
        classes: Names of their folders, sorted.
        labels: The index of each image's class.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...]
    labels: tuple[int, ...]

    @classmethod
    def of(
        cls, names: Sequence[str], split: str, source: str, empty: Sequence[str] = (), *, labelled: bool = True
    ) -> Layout:
        """Find the images of a split among the files `names` of a source: paths relative to it, with slashes.

        A source without folders of the splits' names is a single split, used for all three. `empty` are paths of empty
        folders; those beside folders of classes are classes without images. Unless labels are needed (`labelled`),
        images without folders of classes all get one class. Raises DataError if there are no images, no classes, or no
        such split.
        """
        check_split(split)
        paths = [path for path in map(PurePosixPath, sorted(names)) if _is_image(path)]
        if not paths:
            raise DataError(
                f"There are no images in {source}; it should hold CLASS/NAME.jpg, or train/CLASS/NAME.jpg and so on."
            )
        chosen = _of_split(paths, split, source)
        loose = next((path for path in chosen if len(path.parts) < 2 or path.parent.name.lower() in _KNOWN), None)
        if loose is not None:
            if not labelled:
                return cls(tuple(map(str, chosen)), (source,), (0,) * len(chosen))
            raise DataError(
                f"The image '{loose}' of {source} lies in no folder of a class; move images into one folder for each class."
            )
        above = {path.parent.parent for path in chosen}
        beside = (path for path in map(PurePosixPath, empty) if path.parent in above and path.name[0] not in "._")
        classes = sorted({path.parent.name for path in chosen}.union(path.name for path in beside))
        numbers = {name: number for number, name in enumerate(classes)}
        return cls(tuple(map(str, chosen)), tuple(classes), tuple(numbers[path.parent.name] for path in chosen))


def _is_image(path: PurePosixPath) -> bool:
    """Whether a file is an image by its name; hidden files and those that macOS adds to archives are not."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in IMG_EXTENSIONS and not hidden


def _split_of(path: PurePosixPath) -> str | None:
    """The outermost folder with a split's name; a class's folder counts only if there is no other."""
    above = path.parts[:-2] or path.parts[:-1]
    return next((part.lower() for part in above if part.lower() in _KNOWN), None)


def _of_split(paths: Sequence[PurePosixPath], split: str, source: str) -> list[PurePosixPath]:
    """The paths of one split, or all if there are no splits; raises DataError if there are only others."""
    found = {name for path in paths if (name := _split_of(path)) is not None}
    if not found:
        return list(paths)
    folder = next((name for name in _FOLDERS[split] if name in found), None)
    if folder is None:
        there = [name for name, folders in _FOLDERS.items() if found.intersection(folders)]
        raise DataError(
            f"There is no split '{split}' in {source}; it has {', '.join(sorted(found))}: give split {' or '.join(there)}."
        )
    return [path for path in paths if _split_of(path) == folder]
