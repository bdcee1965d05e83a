"""Checkpoints: each is a directory that is there whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dfpc_plugin.files import flush, write_json, write_tensors
from dfpc_plugin.finetuning.errors import CheckpointError

__all__ = ["Checkpoint", "Checkpoints"]

_FORMAT = 1
_KEPT = 2
_NAME, _TEMPORARY = "checkpoint-", ".unfinished-"


@dataclass(frozen=True)
class Checkpoint:
    """What is saved.

    Attributes:
        content: Everything that is no tensor, as JSON has it.
        model: Tensors of the model.
        optimiser: Tensors of the optimiser.
    """

    content: Mapping[str, Any]
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]


class Checkpoints:
    """The checkpoints of one run, in one directory, numbered by how far the run was."""

    def __init__(self, directory: Path) -> None:
        """Keep them in `directory`, which is made when it is needed."""
        self.directory = directory

    def names(self) -> list[str]:
        """Names of those that are there, in ascending order."""
        if not self.directory.is_dir():
            return []
        return sorted(path.name for path in self.directory.iterdir() if path.name.startswith(_NAME))

    def open(self, resume: bool) -> str | None:
        """Find where to begin, and clear away what an interrupted run has left half-written.

        Returns:
            The name of the newest checkpoint; None to begin anew.

        Raises:
            CheckpointError: There are some and no one asked to resume, or the directory cannot be used.
        """
        if self.directory.exists() and not self.directory.is_dir():
            raise CheckpointError(f"'{self.directory}' is a file; give a directory for checkpoints.")
        found = self.names()
        if found and not resume:
            raise CheckpointError(
                f"'{self.directory}' holds the checkpoints of a run, the newest {found[-1]}; pass resume=True to go on with it, or "
                f"give another directory to start anew."
            )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in self.directory.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(path)
        except OSError as error:
            raise CheckpointError(f"Cannot write checkpoints to '{self.directory}': {error.strerror or error}.") from error
        return found[-1] if found else None

    def save(self, number: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint beside the others, move it into place, and take the oldest away.

        Raises:
            CheckpointError: It cannot be written; those that are there stay.
        """
        final = self.directory / f"{_NAME}{number:010d}"
        if final.exists():  # made by this very run before it was interrupted
            return
        try:
            temporary = Path(tempfile.mkdtemp(dir=self.directory, prefix=_TEMPORARY))
            for part in ("model", "optimiser"):
                # safetensors cannot read what it writes of no tensors and no words about them
                write_tensors(temporary / f"{part}.safetensors", getattr(checkpoint, part), {"part": part})
            write_json(temporary / "run.json", {"format": _FORMAT, **checkpoint.content})
            for path in (*temporary.iterdir(), temporary):
                flush(path)
            temporary.rename(final)
            flush(self.directory)
            for name in self.names()[:-_KEPT]:
                doomed = Path(tempfile.mkdtemp(dir=self.directory, prefix=_TEMPORARY))
                (self.directory / name).rename(doomed / name)  # so that none is ever there in part
                shutil.rmtree(doomed)
        except OSError as error:
            raise CheckpointError(f"Cannot write a checkpoint to '{self.directory}': {error.strerror or error}.") from error

    def load(self, name: str) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            CheckpointError: It cannot be read, or was written by another version of this package.
        """
        place = self.directory / name
        try:
            content = json.loads((place / "run.json").read_text(encoding="utf-8"))
            model, optimiser = (load_file(place / f"{part}.safetensors") for part in ("model", "optimiser"))
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"Cannot read the checkpoint '{place}': {error}. Remove that directory to resume from the one before."
            ) from error
        if content.pop("format", None) != _FORMAT:
            raise CheckpointError(f"The checkpoint '{place}' is of another version of dfpc_plugin; resume it with that version.")
        return Checkpoint(content, model, optimiser)
