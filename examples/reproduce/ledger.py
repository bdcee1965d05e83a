"""Rows of a table that is filled over several runs, so that existing rows are not computed again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dfpc_plugin.errors import DFPCError
from dfpc_plugin.files import write_json, write_text

Row = dict[str, Any]


class LedgerError(DFPCError, ValueError):
    """The rows in a file belong to another experiment."""


class Ledger:
    """Rows in the order they were added, in a JSON file that is valid at any moment, with a CSV file beside it."""

    def __init__(self, directory: Path, experiment: Mapping[str, Any]) -> None:
        """Open or start `results.json` in `directory`; raises LedgerError if it is about another experiment."""
        self._directory, self._experiment = directory, json.loads(json.dumps(experiment))
        self.rows: list[Row] = []
        path = directory / "results.json"
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            differences = list(_differences(content.get("experiment", {}), self._experiment))
            if differences:
                raise LedgerError(
                    f"'{path}' holds rows of another experiment ({'; '.join(differences)}); give another --output, or the "
                    f"same arguments as before."
                )
            self.rows = content["rows"]

    def find(self, **identity: object) -> Row | None:
        """Return the row with these entries, or None."""
        return next((row for row in self.rows if all(row[name] == value for name, value in identity.items())), None)

    def add(self, row: Row) -> None:
        """Add a row, and write both files."""
        self.rows.append(row)
        write_json(self._directory / "results.json", {"experiment": self._experiment, "rows": self.rows})
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in self.rows for name in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self._directory / "results.csv", text.getvalue())


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*theirs, *ours}):
        if theirs.get(name) != ours.get(name):
            yield f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here"
