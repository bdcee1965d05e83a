"""Messages of jsonargparse in the words of people who type commands."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence

from dfpc_plugin.cli.options import MEANT, guessed, nearest

# What jsonargparse says, as regular expressions. A message that matches none is shown as it is.
_LONGEST = 20_000  # a value is repeated in what is said about it
_UNKNOWN = re.compile(r"unrecognized arguments: (--\S+)|invalid choice: '([^']*)'|not accept option '([^']*)'")
_VALUE = re.compile(r" +([^-\s]\S{0,100})")
_BARE = re.compile(r"unrecognized arguments: (?!-)(.*)")
_NESTED = re.compile(r'Parser key "([^"]*)":.*?Option \'([^\']*)\' is not accepted', re.DOTALL)
_BULLETS = re.compile(r"^\s*- (.+?)(?=\n\s*- |\n\s*Given value|\Z)", re.DOTALL | re.MULTILINE)
_UNION = re.compile(r'Parser key "([^"]*)":.*Subtypes: \[(.*?)\]\n.*Given value: (.*)', re.DOTALL)
_LITERAL = re.compile(r'Parser key "([^"]*)":\s*Expected a typing.Literal\[(.*?)\]\. Got value: (.*)', re.DOTALL)
_NOTHING_SAID = ("Expected a", "Does not validate")
_TRIED = "Problem with given class_path"
_NOT_THIS = re.compile(r"^(Expected a <class 'NoneType'>|Problem with given class_path '[^']*':)\s*")
_SECTION = re.compile(r"(?:Parser key \"?)?(?<![\w.])([\w.]+)\"?: Unable to load config ['\"](.*?)['\"]")
_REQUIRED = re.compile(r'(?:Option|Key|Parser key) "([^"]*)" is required')


def explain(message: str, chosen: str, commands: Sequence[str], options: Sequence[str]) -> str:
    """Say what was wrong, the nearest right name, and where help is; `chosen` is '' where no subcommand was."""
    prefix = f"dfpc {chosen}".strip()
    message = message if len(message) <= _LONGEST else message[:_LONGEST] + "..."
    message = re.sub(r"\b\w+(\.\w+)+", lambda found: _own(found[0], chosen, options), message)
    message = _innermost(message)
    text = _simplified(message, options).rstrip(". \n")
    end = _hint(message, chosen, commands, options) or ("" if text.endswith("?") else ".")
    return f"{prefix}: {text}{end} See {prefix} --help."


def _innermost(message: str) -> str:
    """Where sections are tried within sections, what the last one had to say, by the names on the way to it."""
    lines = message.split("\n")
    tried = [number for number, line in enumerate(lines) if _TRIED in line]
    if not tried:
        return message
    inner = lines[tried[-1] + 1 :]
    depth = _indent(lines[tried[-1]])
    leaf = "\n".join(itertools.takewhile(lambda line: _indent(line) > depth, inner))
    path = ".".join(re.findall(r'Parser key "([^"]*)"', "\n".join(lines[: tried[-1]])))
    if not leaf.strip() or not path:
        return message
    if "Parser key" in leaf:
        return leaf.replace('Parser key "', f'Parser key "{path}.', 1)
    return f'Parser key "{path}": {leaf.strip()}'


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _own(name: str, chosen: str, options: Sequence[str]) -> str:
    """An option's name without the subcommand's before it, which jsonargparse puts there or not."""
    bare = name.removeprefix(f"{chosen}.")
    return bare if name not in options and bare.partition(".")[0] in options else name


def _hint(message: str, chosen: str, commands: Sequence[str], options: Sequence[str]) -> str:
    """End the sentence with what was probably meant; '' if nobody knows."""
    found, nested = _UNKNOWN.search(message), _NESTED.search(message)
    if nested is not None:
        typed, dashes = f"{nested[1]}.{nested[2]}", ""
    elif found is not None:
        typed = found[found.lastindex or 0]
        dashes = "--" if typed.startswith("--") else ""
        typed, _, value = typed.lstrip("-").partition("=")
        rest = _VALUE.match(message, found.end())
        option = guessed(typed, value or (rest[1] if rest else ""), options) if dashes else None
        if option is not None:
            return f"; did you mean {option}?"
    else:
        return ""
    near = nearest(typed, list(options if chosen else commands))
    return f"; did you mean {dashes}{near}?" if near else ""


def _simplified(message: str, options: Sequence[str]) -> str:
    """Drop jsonargparse's inner terms: class reprs, and all but the most telling of failed alternatives."""
    text = message.strip()
    nested = _NESTED.search(text)
    if nested is not None:
        return f"{nested[1]} has no option '{nested[2]}'"
    bare = _BARE.search(text)
    if bare is not None:
        target = f"; did you mean --target {bare[1]}?" if "=" in bare[1] and "target" in options else ""
        return f"'{bare[1]}' belongs to no option{target}"
    section = _SECTION.search(text)
    if section is not None:
        return _not_of_section(section[1], section[2])
    required = _REQUIRED.search(text)
    if required is not None:
        return f"{required[1]} is missing"
    return _plain(_of_union(text, options))


def _not_of_section(section: str, value: str) -> str:
    """Answer a value that was given to a whole section, such as `--repair merge`."""
    meant = f", such as --{section}.{MEANT[section]} {value}" if section in MEANT else f", as --{section}.NAME"
    return f"'{value}' is no option of {section}, which is a section; give one of its options{meant}"


def _of_union(text: str, options: Sequence[str]) -> str:
    """Where several types were tried, what the one that was meant had to say."""
    union = _UNION.search(text)
    if union is None and "Union subtypes" not in text:
        return text
    told = [_NOT_THIS.sub("", bullet) for bullet in _BULLETS.findall(text)]
    told = [line.strip() for line in told if line.strip() and not line.startswith(_NOTHING_SAID)]
    if union is None:
        return _in_section(told[0], text, options) if told else text
    if told and ("Namespace(" in union[3] or "{" in union[3] or "NestedArg" in union[3]):
        return f"{union[1]}: {told[0]}"
    subtypes = [kind for kind in re.split(r", (?![^\[]*\])", union[2]) if "NoneType" not in kind]
    if any("Settings" in kind for kind in subtypes):
        return _not_of_section(union[1], union[3].strip())
    return f"{union[1]} must be {' or '.join(subtypes)}, not '{union[3]}'"


def _in_section(said: str, message: str, options: Sequence[str]) -> str:
    """What is said of an option of a section that may be left out, with the section's name: that with all of its options."""
    keys = re.findall(r"(\w+)=", message.rpartition("Given value: Namespace")[2])
    for section in {option.rpartition(".")[0] for option in options}:
        if section and said.startswith(tuple(keys)) and {f"{section}.{key}" for key in keys} <= set(options):
            return f"{section}.{said}"
    return said


def _plain(text: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    literal = _LITERAL.search(text)
    if literal is not None:
        near = difflib.get_close_matches(literal[3].strip(), re.findall(r"'([^']*)'", literal[2]), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        text = f"{literal[1]} must be one of {literal[2]}, not '{literal[3].strip()}'{hint}"
    text = re.sub(r'Parser key "([^"]*)"([^:]*):\s*', r"\1\2: ", text)
    return " ".join(text.split())
