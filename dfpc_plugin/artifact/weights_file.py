"""The tensors of an artifact as one safetensors file, which is checked against the manifest before it is believed."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dfpc_plugin.artifact.manifest import File, Manifest
from dfpc_plugin.artifact.plain import SAFETENSORS
from dfpc_plugin.artifact.reading import ArtifactError, opened
from dfpc_plugin.files import tensor_bytes
from dfpc_plugin.interrupts import interrupts_held
from dfpc_plugin.models.checkpoint import ARTIFACT_KEY

_BLOCK = 2**20


def packed(tensors: Mapping[str, Tensor], binding: str) -> bytes:
    """Return the content of the file: tensors by name, without aliases, and the manifest's `binding`."""
    own: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        shared = tensor.untyped_storage().data_ptr() in storages  # which safetensors refuses
        own[name] = tensor.clone() if shared else tensor
        storages.add(own[name].untyped_storage().data_ptr())
    return tensor_bytes(own, {"format": "pt", ARTIFACT_KEY: binding})


def require_weights(path: Path, manifest: Manifest) -> None:
    """Raise an ArtifactError unless a file has exactly the tensors of a manifest; allocates none of them."""
    _require_same_bytes(path, manifest.files[path.name])
    wanted = {entry.name: (entry.shape, entry.dtype) for entry in manifest.structure.tensors if entry.alias_of is None}
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(ARTIFACT_KEY) != manifest.binding:
                raise ArtifactError(
                    "it is of another artifact, or the manifest was changed: what they say of each other differs"
                )
            found = {}
            for name in file.keys():
                header = file.get_slice(name)
                found[name] = tuple(header.get_shape()), SAFETENSORS.get(header.get_dtype(), header.get_dtype())
    except (SafetensorError, ValueError, RuntimeError, struct.error) as error:
        raise ArtifactError(f"it is no safetensors file: {error}") from error
    for name in wanted | found:
        if wanted.get(name) != found.get(name):
            there, listed = (_shown(each.get(name)) for each in (found, wanted))
            raise ArtifactError(f"the tensor '{name}' in it is {there}, and {listed} by the manifest")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file that `require_weights` has let pass; none of them depends on the file afterwards."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {}
            for name in file.keys():
                with interrupts_held():  # the library makes an error of its own of Ctrl-C
                    tensors[name] = file.get_tensor(name).clone()
            return tensors
    except (SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        raise ArtifactError(f"its tensors cannot be read: {error}") from error


def described(path: Path, most: int | None = None) -> File:
    """Return what a manifest says of a file; if it has more than `most` bytes, of its beginning."""
    digest, size = hashlib.sha256(), 0
    with opened(path) as stream:
        while (most is None or size <= most) and (block := stream.read(_BLOCK)):
            digest.update(block)
            size += len(block)
    return File(digest.hexdigest(), size)


def _require_same_bytes(path: Path, file: File) -> None:
    found = described(path, file.bytes)
    if found.bytes != file.bytes:
        size = f"more than {file.bytes}" if found.bytes > file.bytes else str(found.bytes)
        raise ArtifactError(f"it has {size} bytes where the manifest says {file.bytes}: it was cut short or replaced")
    if found.sha256 != file.sha256:
        raise ArtifactError("its content does not fit the checksum in the manifest: it was changed or damaged")


def _shown(tensor: tuple[tuple[int, ...], str] | None) -> str:
    return "not there" if tensor is None else f"{tensor[0]} of {tensor[1]}"
