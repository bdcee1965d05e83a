"""From the command line and configuration files to the subcommands' configurations.

A subcommand's options are the fields of a dataclass: their types are checked by jsonargparse, their descriptions come
from its docstring, and the same names are the keys of a YAML file for `--config`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from dfpc_plugin import __version__
from dfpc_plugin.cli.explain import explain
from dfpc_plugin.cli.options import (
    FILES,
    bare_argument,
    descriptions,
    how_to_give_several,
    misplaced,
    nearest,
    option_types,
    respelt,
    section_type,
    with_underscores,
)
from dfpc_plugin.errors import DFPCError, system_reason

_LARGEST = 2**17
_LONGEST = 10_000
_MOST_VALUES = 10_000
_MISPLACED = {
    "unknown": "has the key '{key}', which means nothing; ",
    "no section": "has no options in '{key}'; write them below it, as key: value.",
    "no list": "has no list in '{key}'; write one, as [first, second].",
}


class ConfigFileError(DFPCError):
    """A configuration file that cannot be read, or that has keys which mean nothing."""


class _Loader(yaml.SafeLoader):
    """Reads plain values only, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        known: set[str] = set()
        for key in keys:
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no text", node.start_mark)
            if key in known:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", node.start_mark)
            known.add(key)
        return super().construct_mapping(node, deep)


def check_config_file(path: str, config: type, options: list[str]) -> None:
    """Raise if a file is no YAML with keys that a dataclass has fields for, and suggest one of `options`."""
    content = _read(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigFileError(
            f"'{path}' holds a {type(content).__name__}; a configuration file holds options, as key: value."
        )
    _require_small(path, content)
    for key, problem in misplaced(content, config):
        near = nearest(key, options) if problem == "unknown" else None
        hint = f"did you mean '{near}'?" if near else "see --help for the options there are."
        raise ConfigFileError(f"'{path}' {_MISPLACED[problem].format(key=key)}{hint if problem == 'unknown' else ''}")


def _read(path: str) -> Any:
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        raise ConfigFileError(f"The configuration file '{path}' cannot be read: {system_reason(error)}.") from error
    if len(data) > _LARGEST:
        raise ConfigFileError(f"'{path}' has more than {_LARGEST} bytes; no configuration file is that large.")
    try:
        return yaml.load(data.decode(), _Loader)
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"'{path}' is no text in UTF-8 ({error}); save it as such.") from error
    except yaml.YAMLError as error:
        raise ConfigFileError(f"'{path}' is no YAML: {_place_of(error)}.") from error
    except (RecursionError, ValueError, OverflowError) as error:  # nesting without end, dates and numbers beyond all
        raise ConfigFileError(f"'{path}' cannot be understood: {error}.") from error


def _place_of(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return problem if mark is None else f"{problem} in line {mark.line + 1}"


def _require_small(path: str, content: Mapping[Any, Any]) -> None:
    """Raise if a value is very long or large, or if there are very many, as a few lines of YAML that refer to each other can make."""
    left, waiting = _MOST_VALUES, [content]
    while waiting:
        value: Any = waiting.pop()
        if isinstance(value, str) and len(value) > _LONGEST:
            raise ConfigFileError(
                f"'{path}' holds a value of {len(value)} characters, '{value[:20]}...'; no option takes that."
            )
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ConfigFileError(f"'{path}' holds the number {str(value)[:20]}..., which is too large for any option.")
        inner = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
        left -= len(inner)
        if left < 0:
            raise ConfigFileError(f"'{path}' holds more than {_MOST_VALUES} values; no configuration file does.")
        waiting.extend(inner)


_METAVARS = {int: "N", float: "X", Path: "PATH", str: "NAME"}


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand: the dataclass of its options, and one sentence on what it does.

    Subcommands that were not chosen need no options: None is enough to list them.
    """

    config: type | None
    description: str
    main_option: str | None = None
    """The option that the first bare argument is for, unless that is a file of options."""

    @property
    def option_names(self) -> list[str]:
        """What can be given on the command line, without dashes."""
        return ["help", "config", "print_config", *option_types(self.options)]

    @property
    def options(self) -> type:
        """The dataclass of the options of a subcommand that was chosen."""
        assert self.config is not None
        return self.config


class CommandLineError(DFPCError):
    """The command line, or a configuration file, is not right."""


def parse(argv: Sequence[str], commands: Mapping[str, Command]) -> tuple[str, Any]:
    """Return the subcommand that was chosen, and its configuration; options may be spelt with - or _ between words.

    Raises:
        CommandLineError: An option is unknown, missing or has a wrong value.
        SystemExit: What was asked for (`--help`, `--version`, `--print_config`) has been printed.
    """
    parser = _build_parser(commands)
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    arguments = list(with_underscores(argv))
    chosen = next((argument for argument in arguments if argument in commands), "")
    if chosen:
        place = arguments.index(chosen) + 1
        arguments = [*arguments[:place], *respelt(arguments[place:], commands[chosen].options)]
        arguments = _with_main_option(arguments, chosen, commands[chosen])
        _check_files(arguments, commands[chosen])
    try:
        parsed = parser.instantiate(parser.parse_args(arguments))
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        if isinstance(error, DFPCError):
            raise
        options = commands[chosen].option_names if chosen else []
        hint = how_to_give_several(arguments, commands[chosen].options, str(error)) if chosen else ""
        raise CommandLineError(explain(str(error), chosen, list(commands), options) + hint) from error
    config = commands[parsed.subcommand].options
    values = {field.name: parsed[parsed.subcommand][field.name] for field in dataclasses.fields(config)}
    return parsed.subcommand, config(**values)


def _with_main_option(arguments: list[str], chosen: str, command: Command) -> list[str]:
    """Name the bare argument of a command: a file of options, or the value of its main option.

    It goes before all options, wherever it was, so that they prevail.
    """
    place = arguments.index(chosen) + 1
    before, behind = arguments[:place], arguments[place:]
    if command.main_option is not None and not behind:
        raise CommandLineError(
            f"dfpc {chosen} needs a model or a recipe: its name, or a file that ends in .yaml. See dfpc {chosen} --help."
        )
    found = None if command.main_option is None else bare_argument(behind, command.options)
    if found is None:
        return arguments
    bare = behind.pop(found)
    named = f"--{command.main_option}"
    if not bare.endswith(FILES) and any(argument.partition("=")[0] == named for argument in behind):
        raise CommandLineError(
            f"dfpc {chosen}: '{bare}' and {named} are both given, and are the same option; give one of them."
        )
    return [*before, f"--{'config' if bare.endswith(FILES) else command.main_option}", bare, *behind]


def _check_files(arguments: list[str], command: Command) -> None:
    """Look at configuration files before jsonargparse does."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--config":
            path = value if equals else next(iter(arguments[position + 1 :]), "")
            check_config_file(path, command.options, command.option_names)


def _build_parser(commands: Mapping[str, Command]) -> jsonargparse.ArgumentParser:
    parser = _parser(description="Data-free structured pruning (DFPC).", version=__version__)
    subcommands = parser.add_subcommands(title="commands", metavar="COMMAND")
    for name, command in commands.items():
        subparser = _command_parser(command)
        subcommands.add_subcommand(name, subparser, help=command.description)
        subparser.prog = f"dfpc {name}"
        if command.main_option is not None:
            subparser.usage = f"dfpc {name} [{command.main_option.partition('.')[0].upper()} | RECIPE.yaml] [options]"
    return parser


def _parser(**options: Any) -> jsonargparse.ArgumentParser:
    return jsonargparse.ArgumentParser(
        prog="dfpc", exit_on_error=False, allow_abbrev=False, formatter_class=PlainHelpFormatter, **options
    )


def _command_parser(command: Command) -> jsonargparse.ArgumentParser:
    """Make the parser of one subcommand."""
    parser = _parser(description=command.description)
    if command.config is None:
        return parser
    meanings = descriptions(command.config)
    types = typing.get_type_hints(command.config)
    parser.add_argument("--config", action="config", help="Read options from this YAML file; later options prevail.")
    for field in dataclasses.fields(command.config):
        _add_field(parser, field, types[field.name], meanings[field.name])
    return parser


def _add_field(parser: jsonargparse.ArgumentParser, field: dataclasses.Field[Any], kind: Any, description: str) -> None:
    """Add one option, or a positional argument for a field without default."""
    options: dict[str, Any] = {"help": description}
    default: Any = field.default
    if callable(field.default_factory):
        default = field.default_factory()
    required = default is dataclasses.MISSING
    if not required:
        options["default"] = default
    section = section_type(kind)
    if section is not None:
        parser.add_argument(f"--{field.name}", type=kind, **options)
        _describe_choices(parser, section, field.name)
        return
    if kind is bool:
        options["action"] = jsonargparse.ActionYesNo(no_prefix="no_")
    elif typing.get_origin(kind) is tuple:
        options |= {"type": typing.get_args(kind)[0], "nargs": "+"}
        if not required:
            options["default"] = list(default)  # jsonargparse converts the elements in place
    else:
        options["type"] = kind
    base = next((known for known in _METAVARS if known in (options.get("type"), *typing.get_args(kind))), None)
    if kind is not bool and base is not None:
        options["metavar"] = field.metadata.get("metavar", "MODEL" if required else _METAVARS[base])
    parser.add_argument(field.name if required else f"--{field.name}", **options)


def _describe_choices(parser: jsonargparse.ArgumentParser, section: type, prefix: str) -> None:
    """Describe the options of a section that take registered names: jsonargparse knows what the docstring says alone."""
    meanings = descriptions(section)
    named = {
        f"{prefix}.{entry.name}": meanings[entry.name]
        for entry in dataclasses.fields(section)
        if "choices" in entry.metadata
    }
    for action in parser._actions:
        action.help = named.get(action.dest, action.help)


_NOTHING: tuple[object, ...] = (argparse.SUPPRESS, "", (), [], {})


class PlainHelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Adds the default to an option's description, if it says something, and nothing else."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default is None or default is False or default in _NOTHING or not action.option_strings:
            return text
        if isinstance(default, Sequence) and not isinstance(default, str):
            default = " ".join(map(str, default))
        return f"{text} (default: {default})"
