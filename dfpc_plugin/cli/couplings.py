"""`dfpc couplings`."""

from __future__ import annotations

from dataclasses import dataclass, field

from dfpc_plugin.cli.consoles import Consoles
from dfpc_plugin.cli.model_options import SubjectOptions
from dfpc_plugin.cli.output import STDOUT, require_targets, say_written, send
from dfpc_plugin.report.couplings import couple_model
from dfpc_plugin.report.export import couplings_to_csv, couplings_to_json
from dfpc_plugin.report.tables import print_coupling, print_couplings


@dataclass(frozen=True)
class CouplingsConfig(SubjectOptions):
    """Options of `dfpc couplings`.

    Attributes:
        show: Show the coupling of this name, or that a layer of this name writes, with all that goes with it.
        all: List also what no layer writes, such as the input's channels, and protected couplings one by one.
        json: Write everything as JSON to this file, or to the standard output (-), which then gets nothing
            else.
        csv: Write one row per coupling and tensor as CSV to this file, or to the standard output (-).
        quiet: Print no table.
    """

    show: str | None = None
    all: bool = False
    json: str | None = field(default=None, metadata={"metavar": "FILE"})
    csv: str | None = field(default=None, metadata={"metavar": "FILE"})
    quiet: bool = False


def run(config: CouplingsConfig, consoles: Consoles) -> None:
    """Show which channels of a model can only be removed together, and which must stay and why."""
    require_targets(config.json, config.csv)
    with consoles.err.status(f"Following the channels of {config.model}"):
        opened = config.opened(None if config.quiet else consoles.err)
        found = couple_model(config.model, opened.model, opened.inputs)
        shown = [] if config.show is None else found.named(config.show)
        written = send(config.json, lambda: couplings_to_json(found))
        written += send(config.csv, lambda: couplings_to_csv(found))
    if config.quiet or STDOUT in (config.json, config.csv):
        return
    for coupling in shown:
        print_coupling(coupling, found, consoles.out)
    if config.show is None:
        print_couplings(found, consoles.out, config.all)
    say_written(consoles.out, written)
