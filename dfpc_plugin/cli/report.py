"""`dfpc report`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfpc_plugin.artifact import Manifest, read_manifest
from dfpc_plugin.artifact.manifest import MANIFEST
from dfpc_plugin.cli.consoles import Consoles
from dfpc_plugin.cli.output import OptionError, require_targets, say_written, send
from dfpc_plugin.plain_data import Checked, to_plain
from dfpc_plugin.record import RunRecord
from dfpc_plugin.report.page import render_report


@dataclass(frozen=True)
class ReportConfig(Checked, error=OptionError):
    """Options of `dfpc report`.

    Attributes:
        model: The directory of a saved model, or the manifest.json in it.
        output: The file to write, or - for the standard output.
    """

    model: str
    output: str = field(default="report.html", metadata={"metavar": "FILE"})


def run(config: ReportConfig, consoles: Consoles) -> None:
    """Draw the report of a saved model: one HTML page that needs nothing else."""
    require_targets(config.output)
    manifest = read_manifest(_directory(config.model))
    if not manifest.record:
        raise OptionError(
            f"'{config.model}' has no record of how it came about; models that dfpc prune saves have one, and save_pruned takes one."
        )
    record = _record_of_run(manifest, manifest.record)
    say_written(consoles.out, send(config.output, lambda: render_report(record)))


def _directory(name: str) -> Path:
    """The directory of a saved model that is meant: itself, by its manifest, or as the only one in a directory."""
    path = Path(name)
    if path.name == MANIFEST:
        return path.parent
    held = [] if (path / MANIFEST).exists() else sorted(found.parent for found in path.glob(f"[!.]*/{MANIFEST}"))
    if len(held) > 1:
        names = ", ".join(map(str, held))
        raise OptionError(f"'{name}' is no saved model, but holds {len(held)} of them; name one: {names}.")
    return held[0] if held else path


def _record_of_run(manifest: Manifest, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of a model that was saved after a run, or else with what `prune` returned."""
    if "prune" in record or "reached" not in record:
        return {"model": manifest.spec.to_json(), **record}
    run = RunRecord(manifest.spec.to_json())
    run.add_pruning(dict(record))
    return {**to_plain(run), "created": manifest.created, "versions": dict(manifest.versions)}
