"""Write files completely or not at all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save
from torch import Tensor

from dfpc_plugin.errors import DFPCError, system_reason
from dfpc_plugin.interrupts import undone


class OutputError(DFPCError):
    """A file cannot be written."""


def require_writable(path: Path) -> None:
    """Raise OutputError, before any work is done, if `path` cannot be written."""
    try:
        if path.is_dir():
            raise OutputError(f"Cannot write '{path}': it is a directory; name a file in it.")
        if not path.parent.is_dir():
            raise OutputError(f"Cannot write '{path}': there is no directory '{path.parent}'.")
        if not os.access(path if _is_special(path) else path.resolve().parent, os.W_OK):
            raise OutputError(f"Cannot write '{path}': permission denied.")
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise OutputError(f"Cannot write '{path}': {system_reason(error)}.") from error


def is_directory(name: str | Path) -> bool:
    """Whether there is a directory of that name; False for invalid names, such as one that is too long."""
    return os.path.isdir(name)  # noqa: PTH112  Path.is_dir raises an OSError for such names


def is_file(name: str | Path) -> bool:
    """Whether there is a file of that name; False for invalid names."""
    return os.path.isfile(name)  # noqa: PTH113


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` atomically (a reader sees the old file or the new one), or raise OutputError; return `path`."""
    require_writable(path)
    try:
        if _is_special(path):
            path.write_bytes(content)  # a device or a pipe is written to, not replaced
        else:
            _replace(path.resolve(), content)  # the target of a link, not the link
    except OSError as error:
        raise OutputError(f"Cannot write '{path}': {system_reason(error)}.") from error
    return path


def write_text(path: Path, content: str) -> Path:
    """Write `content` as UTF-8, atomically, with unchanged line ends, or raise OutputError."""
    return write_bytes(path, content.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write `content` as indented JSON; NaN and infinity, which JSON does not have, raise a ValueError."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def finite(content: Any) -> Any:
    """Return the content with None for every number that JSON does not have: NaN and infinity."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write named tensors and metadata as safetensors."""
    return write_bytes(path, tensor_bytes({name: t.contiguous() for name, t in tensors.items()}, metadata))


def raw_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's elements as they are in memory, in order."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return contiguous tensors that share no memory, with metadata, as safetensors; equal inputs give equal bytes."""
    data = save(dict(tensors), metadata=dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    # the library's order is random
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(data)[end:]))


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _replace(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, and rename it."""
    clear_leftovers(path)
    temporary = path.with_name(hidden_name(path.name))
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
        if path.exists():
            temporary.chmod(path.stat().st_mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def hidden_name(name: str) -> str:
    """Return a unique temporary name for the future file `name`; it contains the machine and process."""
    return f".{name[:40]}.{_host()}-{os.getpid()}-{secrets.token_hex(8)}.unfinished"


def clear_leftovers(path: Path) -> None:
    """Remove temporary files for `path` that dead processes have left.

    Only files by `hidden_name` of processes on this machine are removed. Those of another machine or container are kept, as
    their process may be running.
    """
    if os.name != "posix":  # elsewhere, `os.kill(process, 0)` may end the process
        return
    name = re.compile(rf"\.{re.escape(path.name[:40])}\.{_host()}-(\d{{1,10}})-[0-9a-f]{{16}}\.unfinished")
    with contextlib.suppress(OSError):  # cleaning up is optional
        for entry in path.parent.iterdir():
            found = name.fullmatch(entry.name)
            if found is not None and not entry.is_symlink() and not _runs(int(found[1])):
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


@functools.lru_cache(maxsize=1)
def _host() -> str:
    """Identify the machine and its container, in which a process number is valid."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  a name, not a path
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextlib.contextmanager
def locked(path: Path, refusal: DFPCError) -> Iterator[None]:
    """Hold a lock on a file, which is created, and removed at the end; it is also released when the process dies.

    Raises `refusal` if another process or thread holds the lock, or an error of its type if the file cannot be created.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise refusal from error
    except OSError as error:
        raise type(refusal)(f"Cannot write '{path}': {system_reason(error)}.") from error

    def leave() -> None:
        path.unlink(missing_ok=True)
        lock.release()

    with undone(leave):
        yield


def flush(path: Path) -> None:
    """Wait until a file or directory is on the disk; not possible for directories on some systems."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
