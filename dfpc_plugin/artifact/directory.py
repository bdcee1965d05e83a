"""Write a directory whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from dfpc_plugin.advice import setting
from dfpc_plugin.artifact.manifest import FORMAT, LARGEST, MANIFEST, WEIGHTS
from dfpc_plugin.artifact.reading import ArtifactError, read_small
from dfpc_plugin.errors import system_reason
from dfpc_plugin.files import clear_leftovers, flush, hidden_name
from dfpc_plugin.plain_data import PlainDataError, parse_json

CONFIG = "config.json"
_FILES = frozenset({MANIFEST, WEIGHTS, CONFIG})
"""What every artifact has."""
_CURRENT, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def require_place(directory: str | Path, *, overwrite: bool) -> Path:
    """Return where a directory is to be written, links followed; raise an ArtifactError if it cannot be written."""
    if Path(directory).name in ("", ".."):
        raise ArtifactError(f"Cannot write '{directory}': it is no name for a directory that is to be made; give one.")
    try:
        target = Path(directory).resolve()
        _require_absent_or(target, overwrite=overwrite)
        if not target.parent.is_dir():
            raise ArtifactError(f"Cannot write '{directory}': there is no directory '{target.parent}'.")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise ArtifactError(f"Cannot write '{directory}': permission denied.")
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise ArtifactError(f"Cannot write '{directory}': {system_reason(error)}.") from error
    return target


@contextlib.contextmanager
def new_directory(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a directory to fill; at the end it becomes `target` in one step, or is removed if anything failed.

    Raises:
        ArtifactError: The disk is full, or something that may not be replaced has appeared; `target` is as it was.
    """
    clear_leftovers(target)
    temporary = target.with_name(hidden_name(target.name))
    try:
        temporary.mkdir()
        yield temporary
        flush(temporary)
        _put(temporary, target, overwrite=overwrite)
        flush(target.parent)
    except OSError as error:
        raise ArtifactError(f"Cannot write '{target}': {system_reason(error)}; what was there is as it was.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # now the old content, or what was not finished, or nothing


def write_file(path: Path, data: bytes) -> None:
    """Write a new file, and wait until it is on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view[: 2**28]) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _require_absent_or(target: Path, *, overwrite: bool) -> None:
    """Raise if something is there that may not be replaced."""
    try:
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if not target.is_dir():
        raise ArtifactError(f"Cannot write '{target}': it is a file; name a directory that is to be made.")
    if not overwrite:
        raise ArtifactError(
            f"Cannot write '{target}': it exists; name another directory, or pass {setting('overwrite', True)}."
        )
    _require_replaceable(target, target)


def _require_replaceable(found: Path, target: Path) -> None:
    """Raise unless the directory `found`, which the user knows as `target`, is empty or holds an artifact alone."""
    entries = {entry.name: entry for entry in found.iterdir()}
    own = _listed_files(found) if MANIFEST in entries else None
    other = sorted(
        name
        for name, entry in entries.items()
        if name not in (own or _FILES) or not (entry.is_symlink() or entry.is_file())
    )
    if entries and (own is None or other):
        why = f"holds '{other[0]}', which is no part of an artifact" if other else "is no artifact of this library"
        raise ArtifactError(f"Cannot overwrite '{target}': it {why}; name another directory, or empty it yourself.")


def _listed_files(target: Path) -> frozenset[str] | None:
    """Names of the files that belong to an artifact, which may be damaged; None if it is no artifact."""
    try:
        content = parse_json(read_small(target / MANIFEST, LARGEST))
    except (ArtifactError, PlainDataError):
        return None
    if type(content) is not dict or content.get("format") != FORMAT:
        return None
    files = content.get("files")
    return _FILES.union(files) if type(files) is dict else _FILES


def _put(source: Path, target: Path, *, overwrite: bool) -> None:
    """Rename; what was there and may be replaced has the name of `source` afterwards.

    Everything is checked again, since another process may have written to `target` meanwhile.
    """
    _require_absent_or(target, overwrite=overwrite)
    if not target.exists():
        os.rename(source, target)  # noqa: PTH104  which fails if a file or a directory with content has appeared
        return
    _swap(source, target)
    try:
        _require_replaceable(source, target)  # before it is removed: something may have been put into it until now
    except BaseException:
        _swap(source, target)
        raise


def _swap(source: Path, target: Path) -> None:
    if _exchanged(source, target):
        return
    old = source.with_name(source.name + ".old")
    os.rename(target, old)  # noqa: PTH104
    try:
        os.rename(source, target)  # noqa: PTH104
    except BaseException:
        os.rename(old, target)  # noqa: PTH104
        raise
    os.rename(old, source)  # noqa: PTH104


def _exchanged(source: Path, target: Path) -> bool:
    """Exchange two directories in one step, where the system has that."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return rename(_CURRENT, os.fsencode(source), _CURRENT, os.fsencode(target), _EXCHANGE) == 0
