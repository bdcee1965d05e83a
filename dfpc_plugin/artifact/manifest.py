"""The manifest of an artifact: everything about a saved model but the values of its tensors."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from dfpc_plugin.artifact.plain import Inputs, NotPlainError, decode, tensor_names
from dfpc_plugin.artifact.reading import ArtifactError, read_small, reported
from dfpc_plugin.artifact.records import MANY, AbsentTensor, Attribute, Name, SavedTensor, Structure
from dfpc_plugin.display import Shown
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.layers import LayerTable
from dfpc_plugin.models import ModelSpec
from dfpc_plugin.plain_data import at_most, checked, checksum, matching, parse_json, to_plain, within

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
FORMAT, _VERSION = "dfpc-plugin", 1
LARGEST = 64 * 2**20
_Sha256 = Annotated[str, matching(r"[0-9a-f]{64}", "64 hexadecimal digits")]
_TIME = matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "a time such as 2026-01-01T12:00:00+00:00")


@dataclass(frozen=True)
class File:
    """Checksum and size of a file of an artifact."""

    sha256: _Sha256
    bytes: Annotated[int, within(0, 2**50)]


class _Model(TypedDict):
    """How the unpruned model is built."""

    name: Name
    options: Annotated[dict[str, Any], at_most(1000)]


class _Content(TypedDict):
    """What the file holds."""

    format: Literal["dfpc-plugin"]
    version: Literal[1]
    model: _Model
    fingerprint: _Sha256
    tensors: Annotated[tuple[SavedTensor, ...], MANY]
    absent: Annotated[tuple[AbsentTensor, ...], MANY]
    attributes: Annotated[tuple[Attribute, ...], MANY]
    inputs: Inputs | None
    files: Annotated[dict[str, File], at_most(1000)]
    versions: Annotated[dict[str, Name], at_most(100)]
    created: Annotated[str, _TIME]
    record: Annotated[dict[str, Any], at_most(10_000)] | None
    checksum: _Sha256


@dataclass(frozen=True, repr=False)
class Manifest(Shown):
    """What is known of a saved model without its weights.

    Attributes:
        spec: How the unpruned model is built.
        fingerprint: Of the unpruned model: see `fingerprint_of`.
        structure: Tensors and attributes of the pruned model.
        files: The files of the directory by name, but for the manifest itself.
        inputs: What it is called with; None if that was not said.
        record: What the caller had written about it.
        versions: Versions of Python and the libraries that it was saved with.
        created: When, in UTC.
    """

    spec: ModelSpec
    fingerprint: str
    structure: Structure
    files: Mapping[str, File]
    inputs: Inputs | None = None
    record: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = "1970-01-01T00:00:00+00:00"

    def __repr__(self) -> str:
        """What is saved, in a few lines."""
        own = (entry for entry in self.structure.tensors if entry.kind == "parameter" and not entry.alias_of)
        parameters = sum(math.prod(entry.shape) for entry in own)
        files = ", ".join(f"{name} ({file.bytes:,} bytes)" for name, file in self.files.items())
        asked = (self.record or {}).get("asked") or "not recorded"
        done = f"target {asked}" if self.record else "no record of how it came about"
        return (
            f"Manifest of a saved {self.spec.name}, {done}\n"
            f"  {parameters:,} parameters in {len(self.structure.tensors):,} tensors, saved {self.created}\n"
            f"  files: {files[:600]}"
        )

    def layers(self) -> LayerTable:
        """Return the layers with their widths before and after pruning, in the order of the forward.

        Raises:
            ArtifactError: The manifest does not say: it was saved without a record, which `dfpc prune` writes.
        """
        layers = (self.record or {}).get("layers")
        if not layers:
            raise ArtifactError(
                "The manifest has no widths of layers: the model was saved without a record, which dfpc prune writes."
            )
        try:
            return LayerTable.from_json(layers)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                "The record in the manifest has no widths of layers that can be read; it was written by another program."
            ) from error

    @property
    def binding(self) -> str:
        """Checksum of the description of the tensors; the file with the tensors repeats it."""
        return checksum(self._model())

    def _model(self) -> dict[str, Any]:
        return {"model": self.spec.to_json(), "fingerprint": self.fingerprint, **to_plain(self.structure)}

    def to_json(self) -> dict[str, Any]:
        """Return all of it as dicts, lists, numbers and strings, with its checksum."""
        content = {"format": FORMAT, "version": _VERSION, **self._model()}
        content |= {
            name: to_plain(getattr(self, name)) for name in ("inputs", "files", "versions", "created", "record")
        }
        return content | {"checksum": checksum(content)}

    def to_text(self) -> str:
        """Return the same as JSON, with an entry of its lists a line."""
        lines = [
            f'"{key}": ' + (_entries(value) if isinstance(value, list) else json.dumps(value, allow_nan=False))
            for key, value in self.to_json().items()
        ]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, content: Any) -> Manifest:
        """Read what somebody who is not trusted has written; raise an ArtifactError that says what is wrong."""
        _require_version(content)
        found = checked(_Content, content, "the manifest", ArtifactError)
        _require_files(found["files"])
        if checksum({key: value for key, value in content.items() if key != "checksum"}) != found["checksum"]:
            raise ArtifactError("its checksum does not fit its content: it was changed or damaged after it was written")
        try:
            spec = ModelSpec.from_json(found["model"])
        except DFPCError as error:
            raise ArtifactError(f"its model cannot be built: {error}") from None
        structure = Structure(found["tensors"], found["absent"], found["attributes"])
        _require_consistent(structure)
        inputs = found["inputs"]
        if inputs is not None:
            inputs.require_plain()
        return cls(
            spec, found["fingerprint"], structure, found["files"], inputs, found["record"], found["versions"],
            found["created"],
        )  # fmt: skip


def read_manifest(directory: str | Path) -> Manifest:
    """Read and check the manifest of an artifact, without reading its weights or building its model.

    Args:
        directory: What `save_pruned` has written.

    Raises:
        ArtifactError: There is none, or it is damaged; names the file.
    """
    if not isinstance(directory, str | os.PathLike):
        raise ArtifactError(f"A saved model is read from a directory; give its path, not a {type(directory).__name__}.")
    path = Path(directory) / MANIFEST
    with reported(path):
        return Manifest.from_json(parse_json(read_small(path, LARGEST)))


def _require_version(content: Any) -> None:
    """Raise if this is no manifest at all, or one of another version, which may have any content."""
    if type(content) is not dict or content.get("format") != FORMAT:
        raise ArtifactError(f"it is no manifest of this library (its 'format' would be '{FORMAT}')")
    version = content.get("version")
    if type(version) is int and version > _VERSION:
        raise ArtifactError(
            f"it was written by a later version of this library (format {version}, and this one reads {_VERSION}); update it"
        )


def _require_files(files: Mapping[str, File]) -> None:
    """Raise unless all are in the directory itself, and the tensors are among them."""
    for name in files:
        if name in ("", ".", "..", MANIFEST) or any(sign in name for sign in "/\\\0"):
            raise ArtifactError(f"it lists the file '{name}', which is no name of a file beside it")
    if WEIGHTS not in files:
        raise ArtifactError(f"it does not list the file '{WEIGHTS}'")


def _require_consistent(structure: Structure) -> None:
    """Raise if names are given twice, aliases lead nowhere, or values are not plain."""
    first: dict[str, SavedTensor] = {}
    names: set[str] = set()
    for name in (*(entry.name for entry in structure.tensors), *(entry.name for entry in structure.absent)):
        if name in names:
            raise ArtifactError(f"it lists '{name}' twice")
        names.add(name)
    for entry in structure.tensors:
        if entry.alias_of is None:
            first[entry.name] = entry
        elif entry.alias_of not in first or first[entry.alias_of] != dataclasses.replace(
            entry, name=entry.alias_of, alias_of=None, persistent=first[entry.alias_of].persistent,
            built=first[entry.alias_of].built,
        ):  # fmt: skip
            raise ArtifactError(f"'{entry.name}' cannot be another name for '{entry.alias_of}', which it does not fit")
    _require_attributes(structure, {entry.name for entry in structure.tensors})


def _require_attributes(structure: Structure, names: set[str]) -> None:
    """Raise if values of attributes are not plain, or tensors in them are not listed, or listed and in none."""
    held: set[str] = set()
    seen: set[tuple[str, str]] = set()
    parted: set[tuple[str, str]] = set()
    for attribute in structure.attributes:
        whole = attribute.module, attribute.name.partition(".")[0]
        where = f"{attribute.module}.{attribute.name}".removeprefix(".")
        try:
            decode(attribute.value, lambda name: None)
        except NotPlainError as error:
            raise ArtifactError(f"its value of '{where}' is not plain: {error}") from None
        if {(attribute.module, attribute.name), whole} & seen or ("." not in attribute.name and whole in parted):
            raise ArtifactError(f"it sets '{where}' twice")
        seen.add((attribute.module, attribute.name))
        parted.add(whole)
        for name in tensor_names(attribute.value):
            if type(name) is not str or name not in names:
                raise ArtifactError(f"'{where}' holds the tensor {name!r}, which is not listed")
            held.add(name)
    loose = [entry.name for entry in structure.tensors if entry.kind == "plain" and entry.name not in held]
    if loose:
        raise ArtifactError(f"the tensor '{loose[0]}' is in no parameter, buffer or attribute")


def _entries(values: list[Any]) -> str:
    """A list with an entry a line."""
    return "[\n" + ",\n".join(f"  {json.dumps(value, allow_nan=False)}" for value in values) + "\n]" if values else "[]"
