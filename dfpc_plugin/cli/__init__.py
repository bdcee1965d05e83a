"""The command `dfpc`: one file per subcommand, each of which calls the library and prints."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import typing
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from dfpc_plugin.advice import spelt_by
from dfpc_plugin.cli.consoles import Consoles
from dfpc_plugin.cli.stored_help import help_text
from dfpc_plugin.errors import DFPCError, MissingDependencyError
from dfpc_plugin.progress import silenced
from dfpc_plugin.starting import INTERRUPTED, begun

__all__ = ["main"]

Entry = tuple[type, Callable[[Any, Consoles], int | None]]
"""The dataclass of a subcommand's options, and the function that carries it out and may return an exit code."""


class _Commands(UserDict[str, Any]):
    """Subcommands by name, each imported when it is looked up: `dfpc --help` needs none of them, nor PyTorch."""

    def __init__(self, *names: str) -> None:
        """List the modules `dfpc_plugin.cli.NAME`; each has a function `run(config: ITS_OPTIONS, consoles)`."""
        super().__init__()
        self.data.update(dict.fromkeys(names))

    def __getitem__(self, name: str) -> Entry:
        """Import a subcommand."""
        if self.data[name] is None:
            run = importlib.import_module(_module(name)).run
            self.data[name] = typing.get_type_hints(run)["config"], run
        entry: Entry = self.data[name]
        return entry


COMMANDS = _Commands(
    *"demo score couplings check prune repair finetune compare sensitivity evaluate bench export report".split()
)
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
        return _main(argv, Consoles())
    except KeyboardInterrupt as stop:  # of a run that can go on, with how
        if stop.args:
            print(stop, file=sys.stderr)
        return INTERRUPTED


def _main(argv: Sequence[str] | None, consoles: Consoles) -> int:
    """Run the command line; only Ctrl-C is an error."""
    with contextlib.suppress(FileNotFoundError):  # the directory may be removed
        if str(Path.cwd()) not in sys.path:  # for package.module:function
            sys.path.append(str(Path.cwd()))  # behind all else, so that no file there hides a package
    argv = sys.argv[1:] if argv is None else argv
    try:
        known = help_text(argv)
        if known is not None:
            sys.stdout.write(known)
            sys.stdout.flush()
            return 0
        with silenced(), _plain_warnings():  # commands show progress themselves
            return _run(argv, consoles)
    except SystemExit as stop:  # --help, --version and --print_config have printed what was asked for
        return stop.code if isinstance(stop.code, int) else 0
    except DFPCError as error:
        return _fail(consoles, error, FAILED)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; the exit must not write to it either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings as sentences, without the lines of code that they come from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _run(argv: Sequence[str], consoles: Consoles) -> int:
    try:
        from dfpc_plugin.cli.options import as_option, how_to_give_several
        from dfpc_plugin.cli.parser import Command, parse
    except ModuleNotFoundError as error:
        if error.name not in ("jsonargparse", "docstring_parser", "yaml"):
            raise
        return _fail(consoles, MissingDependencyError(error.name, "cli"), USAGE)
    commands = {
        name: Command(COMMANDS[name][0] if name in argv else None, _description(name), MAIN_OPTIONS.get(name))
        for name in COMMANDS
    }
    try:
        name, config = parse(argv, commands)
    except DFPCError as error:
        return _fail(consoles, error, USAGE)
    run = COMMANDS[name][1]
    begun()  # torch and all else is imported
    with spelt_by(functools.partial(as_option, type(config))):
        try:
            return run(config, consoles) or 0
        except DFPCError as error:
            return _fail(consoles, error, FAILED, how_to_give_several(argv, type(config), str(error)))


def _module(name: str) -> str:
    return f"{__name__}.{name}"


def _description(name: str) -> str:
    """The first line of what the docstring of a subcommand's `run` says, read without importing the subcommand."""
    spec = importlib.util.find_spec(_module(name))
    source = None if spec is None or spec.loader is None else spec.loader.get_source(spec.name)  # type: ignore[attr-defined]
    functions = (node for node in ast.parse(source or "").body if isinstance(node, ast.FunctionDef))
    run = next(node for node in functions if node.name == "run")
    return (ast.get_docstring(run) or "").partition("\n")[0]


def _fail(consoles: Consoles, error: DFPCError, code: int, hint: str = "") -> int:
    consoles.err.print(Text(f"{error}{hint}", style="red"), soft_wrap=True)
    return code
