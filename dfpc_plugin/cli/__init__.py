"""The command `dfpc`: one file per subcommand, each of which calls the library and prints."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from dfpc_plugin.cli import (
    bench,
    check,
    compare,
    couplings,
    demo,
    evaluate,
    export,
    finetune,
    prune,
    repair,
    report,
    score,
    sensitivity,
)
from dfpc_plugin.cli.consoles import Consoles
from dfpc_plugin.errors import DFPCError, MissingDependencyError
from dfpc_plugin.progress import silenced
from dfpc_plugin.starting import INTERRUPTED, begun

__all__ = ["main"]

COMMANDS: dict[str, tuple[type, Callable[[Any, Consoles], int]]] = {
    "demo": (demo.DemoConfig, demo.run),
    "score": (score.ScoreConfig, score.run),
    "couplings": (couplings.CouplingsConfig, couplings.run),
    "check": (check.CheckConfig, check.run),
    "prune": (prune.PruneConfig, prune.run),
    "repair": (repair.RepairConfig, repair.run),
    "finetune": (finetune.FinetuneConfig, finetune.run),
    "compare": (compare.CompareConfig, compare.run),
    "sensitivity": (sensitivity.SensitivityConfig, sensitivity.run),
    "evaluate": (evaluate.EvaluateConfig, evaluate.run),
    "bench": (bench.BenchConfig, bench.run),
    "export": (export.ExportConfig, export.run),
    "report": (report.ReportConfig, report.run),
}
MAIN_OPTIONS = {"prune": "model.name"}
"""What the bare argument behind a command is for, where that is an option of a section."""
FAILED, USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done. 1: it could not be done, or a check found something missing. 2: the command line or a configuration file is
    not right, or the packages for the command line are not installed.

    Args:
        argv: Arguments after the program's name; those of the process if not given.
    """
    try:
        begun()
        return _main(argv, Consoles())
    except KeyboardInterrupt as stop:  # of a run that can go on, with how
        if stop.args:
            print(stop, file=sys.stderr)
        return INTERRUPTED


def _main(argv: Sequence[str] | None, consoles: Consoles) -> int:
    """Run the command line; only Ctrl-C is an error."""
    with contextlib.suppress(FileNotFoundError):  # the directory may be removed
        if str(Path.cwd()) not in sys.path:
            sys.path.append(
                str(Path.cwd())
            )  # for package.module:function; behind all else, so that no file there hides a package
    try:
        with silenced():  # commands show progress themselves
            return _run(sys.argv[1:] if argv is None else argv, consoles)
    except SystemExit as stop:  # --help, --version and --print_config have printed what was asked for
        return stop.code if isinstance(stop.code, int) else 0
    except DFPCError as error:
        return _fail(consoles, error, FAILED)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; the exit must not write to it either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _run(argv: Sequence[str], consoles: Consoles) -> int:
    try:
        from dfpc_plugin.cli.parser import Command, parse
    except ModuleNotFoundError as error:
        if error.name not in ("jsonargparse", "docstring_parser", "yaml"):
            raise
        return _fail(consoles, MissingDependencyError(error.name, "cli"), USAGE)
    try:
        # The first line of a subcommand's docstring is its help.
        name, config = parse(
            argv,
            {
                name: Command(config, (run.__doc__ or "").partition("\n")[0], MAIN_OPTIONS.get(name))
                for name, (config, run) in COMMANDS.items()
            },
        )
    except DFPCError as error:
        return _fail(consoles, error, USAGE)
    return COMMANDS[name][1](config, consoles)


def _fail(consoles: Consoles, error: DFPCError, code: int) -> int:
    consoles.err.print(Text(str(error), style="red"), soft_wrap=True)
    return code
