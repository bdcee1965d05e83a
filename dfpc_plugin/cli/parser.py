"""From the command line and configuration files to the subcommands' configurations.

A subcommand's options are the fields of a dataclass: their types are checked by jsonargparse, their descriptions come
from its docstring, and the same names are the keys of a YAML file for `--config`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docstring_parser
import jsonargparse

from dfpc_plugin import __version__
from dfpc_plugin.cli.formatter import PlainHelpFormatter
from dfpc_plugin.errors import DFPCError

__all__ = ["Command", "CommandLineError", "parse"]

_METAVARS = {int: "N", float: "X", Path: "PATH", str: "NAME"}
# What jsonargparse says, as regular expressions. A message that matches none is shown as it is.
_UNKNOWN = re.compile(
    r"unrecognized arguments: (--\S+)|invalid choice: '([^']*)'|not accept option '([^']*)'"
)
_UNION = re.compile(r'Parser key "([^"]*)":.*Subtypes: \[(.*?)\]\n.*Given value: (.*)', re.DOTALL)
_LITERAL = re.compile(
    r'Parser key "([^"]*)":\s*Expected a typing.Literal\[(.*?)\]\. Got value: (.*)', re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand: the dataclass of its options, and one sentence on what it does."""

    config: type
    description: str

    @property
    def option_names(self) -> list[str]:
        """What can be given on the command line, without dashes."""
        return ["help", "config", "print_config", *(field.name for field in dataclasses.fields(self.config))]


class CommandLineError(DFPCError):
    """The command line, or a configuration file, is not right."""


def parse(argv: Sequence[str], commands: Mapping[str, Command]) -> tuple[str, Any]:
    """Return the subcommand that was chosen, and its configuration.

    Args:
        argv: Arguments after the program's name. Options may be spelt with - or _ between words.
        commands: The subcommands, by name.

    Raises:
        CommandLineError: An option is unknown, missing or has a wrong value.
        SystemExit: What was asked for (`--help`, `--version`, `--print_config`) has been printed.
    """
    parser = _build_parser(commands)
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    arguments = list(_with_underscores(argv))
    try:
        parsed = parser.parse_args(arguments)
    except jsonargparse.ArgumentError as error:
        chosen = next((argument for argument in arguments if argument in commands), "")
        raise CommandLineError(_explain(str(error), chosen, commands)) from error
    config = commands[parsed.subcommand].config
    values = {field.name: parsed[parsed.subcommand][field.name] for field in dataclasses.fields(config)}
    return parsed.subcommand, config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _build_parser(commands: Mapping[str, Command]) -> jsonargparse.ArgumentParser:
    parser = _parser(description="Data-free structured pruning (DFPC).", version=__version__)
    subcommands = parser.add_subcommands(title="commands", metavar="COMMAND")
    for name, command in commands.items():
        subparser = _command_parser(command)
        subcommands.add_subcommand(name, subparser, help=command.description)
        subparser.prog = f"dfpc {name}"
    return parser


def _parser(**options: Any) -> jsonargparse.ArgumentParser:
    return jsonargparse.ArgumentParser(
        prog="dfpc", exit_on_error=False, allow_abbrev=False, formatter_class=PlainHelpFormatter, **options
    )


def _command_parser(command: Command) -> jsonargparse.ArgumentParser:
    """Make the parser of one subcommand."""
    docs = docstring_parser.parse(command.config.__doc__ or "")
    descriptions = {parameter.arg_name: parameter.description or "" for parameter in docs.params}
    types = typing.get_type_hints(command.config)
    parser = _parser(description=command.description)
    parser.add_argument(
        "--config", action="config", help="Read options from this YAML file; later options prevail."
    )
    for field in dataclasses.fields(command.config):
        _add_field(parser, field, types[field.name], descriptions[field.name])
    return parser


def _add_field(
    parser: jsonargparse.ArgumentParser, field: dataclasses.Field, kind: Any, description: str
) -> None:
    """Add one option, or a positional argument for a field without default."""
    options: dict[str, Any] = {"help": " ".join(description.split())}
    default: Any = field.default
    required = default is dataclasses.MISSING
    if not required:
        options["default"] = default
    if kind is bool:
        options["action"] = jsonargparse.ActionYesNo(no_prefix="no_")
    elif typing.get_origin(kind) is tuple:
        options |= {"type": typing.get_args(kind)[0], "nargs": "+"}
        if not required:
            options["default"] = list(default)  # jsonargparse converts the elements in place
    else:
        options["type"] = kind
    base = next(
        (known for known in _METAVARS if known in (options.get("type"), *typing.get_args(kind))), None
    )
    if kind is not bool and base is not None:
        options["metavar"] = field.metadata.get("metavar", "MODEL" if required else _METAVARS[base])
    parser.add_argument(field.name if required else f"--{field.name}", **options)


def _with_underscores(argv: Sequence[str]) -> Iterator[str]:
    """Spell options as the keys of a configuration file are: --batch-size becomes --batch_size."""
    for argument in argv:
        name, equals, value = argument.partition("=")
        yield name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def _explain(message: str, chosen: str, commands: Mapping[str, Command]) -> str:
    """Say what was wrong, the nearest right name, and where help is."""
    prefix = f"dfpc {chosen}".strip()
    text, hint = _simplified(message, chosen).rstrip("."), ""
    unknown = _UNKNOWN.search(message)
    if unknown:
        typed = unknown[unknown.lastindex or 0]
        names = commands[chosen].option_names if chosen else list(commands)
        near = difflib.get_close_matches(typed.lstrip("-").partition("=")[0], names, n=1)
        hint = f"; did you mean {'--' if typed.startswith('--') else ''}{near[0]}?" if near else ""
    return f"{prefix}: {text}{hint or '.'} See {prefix} --help."


def _simplified(message: str, chosen: str) -> str:
    """Drop jsonargparse's inner terms: class reprs, the subcommand's prefix, the list of failed alternatives."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message)
    if union := _UNION.search(text):
        kinds = " or ".join(kind for kind in union[2].split(", ") if kind != "NoneType")
        text = f"{union[1]} must be {kinds}, not '{union[3]}'"
    elif literal := _LITERAL.search(text):
        text = f"{literal[1]} must be one of {literal[2]}, not '{literal[3]}'"
    text = re.sub(r'Parser key "([^"]*)"([^:]*):\s*', r"\1\2: ", text)
    return text.replace(f"{chosen}.", "") if chosen else text
