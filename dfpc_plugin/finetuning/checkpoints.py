"""Checkpoints: each is a directory that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dfpc_plugin.advice import setting
from dfpc_plugin.artifact.manifest import File
from dfpc_plugin.artifact.reading import ArtifactError, read_small
from dfpc_plugin.artifact.weights_file import described
from dfpc_plugin.errors import system_reason
from dfpc_plugin.files import flush, is_directory, is_file, locked, write_json, write_tensors
from dfpc_plugin.finetuning.settings import CheckpointError
from dfpc_plugin.plain_data import checked, parse_json, to_plain

_FORMAT = 2
_KEPT = 2
_NAME, _TEMPORARY, _DAMAGED = "checkpoint-", ".unfinished-", "damaged-"
_RUN, _SUMS, _LOCK = "run.json", "checksums.json", "lock"
_PARTS = ("model", "optimiser")
_FILES = (_RUN, *(f"{part}.safetensors" for part in _PARTS))
_LARGEST = 2**26


@dataclass(frozen=True)
class Checkpoint:
    """What is saved: tensors of the model and of the optimiser, and everything else as JSON has it."""

    content: Mapping[str, Any]
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]


class Checkpoints:
    """The checkpoints of one run, in one directory, numbered by how far the run was."""

    @classmethod
    def at(cls, directory: str | Path | None) -> Checkpoints | None:
        """The checkpoints in a directory, if one is given; raise a CheckpointError if another run has it. Nothing is made.

        Several processes of one run leave that to `open`, or they would be in each other's way.
        """
        if directory is None:
            return None
        found = cls(Path(directory))
        if is_file(found.directory / _LOCK) and int(os.environ.get("WORLD_SIZE", 1)) == 1:
            with found._locked():
                pass
        return found

    def __init__(self, directory: Path) -> None:
        """Keep them in `directory`, which is made when it is needed."""
        self.directory = directory
        self._lock = contextlib.ExitStack()

    def close(self) -> None:
        """Let other runs have the directory."""
        self._lock.close()

    def _locked(self) -> AbstractContextManager[None]:
        refusal = f"'{self.directory}' is in use: another run saves its checkpoints there; wait for it, or give another directory."
        return locked(self.directory / _LOCK, CheckpointError(refusal))

    def names(self) -> list[str]:
        """Names of those that are there, in ascending order."""
        if not is_directory(self.directory):
            return []
        return sorted(path.name for path in self.directory.iterdir() if path.name.startswith(_NAME))

    def open(self, resume: bool) -> str | None:
        """Return the newest checkpoint that is whole, None to begin anew; no other run can `open`, until `close`.

        What an interrupted run has left half-written is removed. Damaged newer checkpoints are renamed, with a warning.

        Raises:
            CheckpointError: There are some and no one asked to resume, all are damaged, or the directory cannot be used.
        """
        if is_file(self.directory):
            raise CheckpointError(f"'{self.directory}' is a file; give a directory for checkpoints.")
        self.close()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(self._locked())
            found = self.names()
            if found and not resume:
                raise CheckpointError(
                    f"'{self.directory}' holds the checkpoints of a run, the newest {found[-1]}; pass "
                    f"{setting('resume', True)} to go on with it, or give another directory to start anew."
                )
            for path in self.directory.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(path)
            return self._newest_whole(found)
        except CheckpointError:  # is a ValueError, too
            raise
        except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
            raise CheckpointError(f"Cannot write checkpoints to '{self.directory}': {system_reason(error)}.") from error

    def _newest_whole(self, names: list[str]) -> str | None:
        """The newest of some checkpoints that is not damaged; newer ones get another name."""
        faults: dict[str, CheckpointError] = {}
        for name in reversed(names):
            try:
                self._require_whole(name)
            except CheckpointError as error:
                faults[name] = error
                continue
            for damaged, fault in faults.items():
                (self.directory / damaged).rename(Path(tempfile.mkdtemp(dir=self.directory, prefix=_DAMAGED)) / damaged)
                warnings.warn(f"{fault} The run goes on from '{name}', the one before.", stacklevel=2)
            return name
        if faults:
            raise faults[names[-1]]
        return None

    def _require_whole(self, name: str) -> None:
        """Raise unless the files of a checkpoint are those that were written."""
        place = self.directory / name
        try:
            sums = checked(dict[str, File], parse_json(read_small(place / _SUMS, _LARGEST)), _SUMS)
            for file in _FILES:
                if not is_file(place / file):
                    raise ArtifactError(f"'{file}' is not there")
                if described(place / file) != sums.get(file):
                    raise ArtifactError(f"'{file}' is not what was written")
        except (ArtifactError, OSError, ValueError) as error:
            raise CheckpointError(f"The checkpoint '{place}' is damaged: {error}.") from error

    def save(self, number: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint beside the others, move it into place, and remove the oldest; a CheckpointError if that fails."""
        final = self.directory / f"{_NAME}{number:010d}"
        if final.exists():  # made by this very run before it was interrupted
            return
        try:
            temporary = Path(tempfile.mkdtemp(dir=self.directory, prefix=_TEMPORARY))
            for part in _PARTS:
                # safetensors cannot read what it writes of no tensors and no words about them
                write_tensors(temporary / f"{part}.safetensors", getattr(checkpoint, part), {"part": part})
            write_json(temporary / _RUN, {"format": _FORMAT, **checkpoint.content})
            write_json(temporary / _SUMS, to_plain({name: described(temporary / name) for name in _FILES}))
            for path in (*temporary.iterdir(), temporary):
                flush(path)
            temporary.rename(final)
            flush(self.directory)
            for name in self.names()[:-_KEPT]:
                doomed = Path(tempfile.mkdtemp(dir=self.directory, prefix=_TEMPORARY))
                (self.directory / name).rename(doomed / name)  # so that none is ever there in part
                shutil.rmtree(doomed)
        except OSError as error:
            raise CheckpointError(
                f"Cannot write a checkpoint to '{self.directory}': {system_reason(error)}."
            ) from error

    def load(self, name: str) -> Checkpoint:
        """Read a checkpoint; raise a CheckpointError if it is damaged, or of another version of this package."""
        place = self.directory / name
        self._require_whole(name)
        try:
            content = parse_json(read_small(place / _RUN, _LARGEST))
            model, optimiser = (load_file(place / f"{part}.safetensors") for part in _PARTS)
        except (ArtifactError, OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"Cannot read the checkpoint '{place}': {error}.") from error
        if content.pop("format", None) != _FORMAT:
            raise CheckpointError(
                f"The checkpoint '{place}' is of another version of dfpc_plugin; resume it with that version."
            )
        return Checkpoint(content, model, optimiser)
