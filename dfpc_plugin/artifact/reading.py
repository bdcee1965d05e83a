"""Read files of a directory that somebody else may have filled."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dfpc_plugin.errors import DFPCError, system_reason


class ArtifactError(DFPCError):
    """A pruned model cannot be written or read; the message names the file or the module."""


class UnsavableModelError(ArtifactError):
    """A model holds something that cannot be written as plain data, or is not what its description builds."""


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Say which file it was that could not be read, and why."""
    try:
        yield
    except ArtifactError as error:
        raise type(error)(_cannot_read(path, str(error))) from error.__cause__
    except (OSError, ValueError) as error:  # not plain data, for one; a path with a null byte is a ValueError too
        raise ArtifactError(_cannot_read(path, system_reason(error))) from error


def _cannot_read(path: Path, why: str) -> str:
    # Line ends and control characters could come from the file, and would reach a terminal.
    why = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in why.rstrip("."))
    return f"Cannot read '{path}': {why}{'' if why.endswith('?') else '.'}"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open an ordinary file; raise an ArtifactError if it is missing, a device, or a link out of its directory."""
    directory = path.parent
    if not directory.is_dir():
        raise ArtifactError(
            f"'{directory}' is a file, where the directory that save_pruned has written is wanted" if directory.exists()
            else f"there is no directory '{directory}'"
        )  # fmt: skip
    if not path.exists():
        raise ArtifactError("there is no such file; a directory that save_pruned has written has one")
    if path.resolve().parent != directory.resolve():
        raise ArtifactError(
            "it is a link that leads out of its directory; copy the file there, or download with local_dir=..., which makes "
            "no links"
        )
    with os.fdopen(
        os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
    ) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):  # a pipe would be waited for
            raise ArtifactError("it is not an ordinary file")
        yield stream


def read_small(path: Path, most: int) -> bytes:
    """Read a file; raise an ArtifactError if it has more than `most` bytes, or as `opened` does."""
    with opened(path) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ArtifactError(f"it has more than {most} bytes")
    return data
