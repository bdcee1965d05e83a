"""`dfpc report`."""

from __future__ import annotations

from dataclasses import dataclass, field

from dfpc_plugin.artifact import read_manifest
from dfpc_plugin.cli.consoles import Consoles
from dfpc_plugin.cli.output import OptionError, require_targets, say, send
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data import Checked
from dfpc_plugin.report.page import render_report


class NoRecordError(DFPCError):
    """A saved model says nothing of how it came about."""


@dataclass(frozen=True)
class ReportConfig(Checked, error=OptionError):
    """Options of `dfpc report`.

    Attributes:
        model: The directory of a saved model.
        output: The file to write, or - for the standard output.
    """

    model: str
    output: str = field(default="report.html", metadata={"metavar": "FILE"})


def run(config: ReportConfig, consoles: Consoles) -> None:
    """Draw the report of a saved model: one HTML page that needs nothing else."""
    require_targets(config.output)
    record = read_manifest(config.model).record
    if not record:
        raise NoRecordError(
            f"'{config.model}' has no record of how it came about; models that dfpc prune saves have one, and save_pruned takes one."
        )
    for written in send(config.output, lambda: render_report(record)):
        say(consoles.out, f"Written: {written}")
