"""Cells on the disk, so that a comparison that was stopped goes on: JSON lines, of which the first describes the comparison."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dfpc_plugin.comparing.cells import METRICS, Cell, CellResult, CompareError, Unpruned
from dfpc_plugin.files import finite, locked, require_writable, write_text

__all__ = ["CellStore", "FileStore", "as_lines", "read_lines", "reserved"]


class CellStore:
    """Keeps finished cells in memory.

    Attributes:
        experiment: What cells have in common.
        known: Every finished cell, in the order in which they were finished.
        unpruned: The figures of the unpruned model; None until they are known.
    """

    def __init__(self, experiment: Mapping[str, Any]) -> None:
        """Know no cells yet."""
        self.experiment = json.loads(json.dumps(experiment))
        self.known: dict[Cell, CellResult] = {}
        self.unpruned: Unpruned | None = None

    def begin(self, unpruned: Unpruned) -> None:
        """Keep the figures of the unpruned model."""
        self.unpruned = unpruned

    def add(self, result: CellResult) -> None:
        """Keep a finished cell."""
        self.known[result.cell] = result


class FileStore(CellStore):
    """Keeps finished cells in a file, too."""

    def __init__(self, path: Path, experiment: Mapping[str, Any]) -> None:
        """Take up the cells in a file, or begin it; raise a CompareError if it holds something else than this experiment."""
        super().__init__(experiment)
        self._path = path
        require_writable(path)
        if path.exists():
            self._take_up(path)

    def begin(self, unpruned: Unpruned) -> None:
        """Keep the figures of the unpruned model."""
        super().begin(unpruned)
        write_text(self._path, as_lines(self.experiment, unpruned, ()))

    def add(self, result: CellResult) -> None:
        """Keep a finished cell; once this returns, it is on the disk."""
        super().add(result)
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(result.to_json(self.experiment["metric"])))
            file.flush()
            os.fsync(file.fileno())

    def _take_up(self, path: Path) -> None:
        """Read what an earlier run has left."""
        text = path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if not whole:  # stopped while the first line was written
            return
        experiment, self.unpruned, results = read_lines(whole, path)
        other = sorted(
            key for key in {*experiment, *self.experiment} if experiment.get(key) != self.experiment.get(key)
        )
        if other:
            told = "; ".join(
                f"{key} is {experiment.get(key)} there and {self.experiment.get(key)} here" for key in other
            )
            raise CompareError(
                f"'{path}' holds another comparison ({told}); name another file as save_to, or remove that one."
            )
        self.known = {result.cell: result for result in results}
        if whole != text:  # the last line was cut off
            write_text(path, whole)


@contextlib.contextmanager
def reserved(path: Path | None) -> Iterator[None]:
    """Keep other processes from working on a file; raise a CompareError if one does."""
    if path is None:
        yield
        return
    require_writable(path)
    refusal = CompareError(f"'{path}' is in use by another process; wait for it, or name another file as save_to.")
    with locked(path.with_name(f".{path.name}.lock"), refusal):
        yield


def as_lines(experiment: Mapping[str, Any], unpruned: Unpruned, results: Iterable[CellResult]) -> str:
    """Write a comparison as JSON lines."""
    first = {"experiment": dict(experiment), "unpruned": asdict(unpruned)}
    return _line(first) + "".join(_line(result.to_json(experiment["metric"])) for result in results)


def read_lines(text: str, path: Path) -> tuple[dict[str, Any], Unpruned, list[CellResult]]:
    """Read the JSON lines of a comparison; raise a CompareError that names the file and the line if it is none."""
    number, results = 1, []
    try:
        first, *rest = text.splitlines()
        content = json.loads(first)
        experiment, unpruned = content["experiment"], Unpruned(**content["unpruned"])
        if experiment["metric"] not in METRICS:
            raise ValueError(f"no metric is called {experiment['metric']!r}")
        for line in rest:
            number += 1
            results.append(CellResult.from_json(json.loads(line), experiment["metric"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompareError(
            f"'{path}' is no file of a comparison: line {number} cannot be read ({error}); name another file as save_to."
        ) from error
    return experiment, unpruned, results


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(finite(content), allow_nan=False) + "\n"
