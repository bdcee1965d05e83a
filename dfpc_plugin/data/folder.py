"""Images in a folder."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dfpc_plugin.data.images import LARGEST_FILE, read_image
from dfpc_plugin.data.layout import Layout


class FolderImages:
    """The images of one split of a folder, one folder for each class."""

    def __init__(self, folder: Path, split: str, *, labelled: bool = True) -> None:
        """List the images; nothing is read yet. With `labelled=False`, no folders of classes are needed.

        Raises:
            DataError: There are none.
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
