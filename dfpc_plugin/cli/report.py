"""`dfpc report`."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.text import Text

from dfpc_plugin.artifact import read_manifest
from dfpc_plugin.cli.consoles import Consoles
from dfpc_plugin.cli.output import STDOUT, require_targets, send
from dfpc_plugin.cli.subject import OptionError
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.plain_data import Checked
from dfpc_plugin.report.page import render_report

__all__ = ["NoRecordError", "ReportConfig", "run"]


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


def run(config: ReportConfig, consoles: Consoles) -> int:
    """Draw the report of a saved model: one HTML page that needs nothing else."""
    require_targets(config.output)
    record = read_manifest(config.model).record
    if not record:
        raise NoRecordError(
            f"'{config.model}' has no record of how it came about; models that dfpc prune saves have one, and save_pruned takes one."
        )
    written = send(config.output, render_report(record))
    if config.output != STDOUT:
        consoles.out.print(Text(f"Written: {', '.join(written)}"), soft_wrap=True)
    return 0
