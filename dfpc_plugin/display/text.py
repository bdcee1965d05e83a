"""Tables and paragraphs as text that fits a terminal, and tables as CSV."""

from __future__ import annotations

import csv
import functools
import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

TERMINAL_WIDTH = 80
_NARROWEST = 12
"""Smallest width of a name, in columns."""


def as_text(*parts: RenderableType, width: int = TERMINAL_WIDTH) -> str:
    """Return tables and paragraphs, one below the other, as plain text of `width` columns.

    A string is a paragraph without markup. By default, rich would print in notebooks, and write colour codes if the
    environment asks for colours.
    """
    text = io.StringIO()
    console = Console(
        file=text, width=width, force_jupyter=False, force_terminal=False, color_system=None, highlight=False
    )
    for part in parts:
        console.print(Text(part) if isinstance(part, str) else part)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def number_columns(*headings: str) -> list[Column]:
    """Columns of figures, at the right and on one line."""
    return [Column(heading, justify="right", no_wrap=True) for heading in headings]


def plain_table(*columns: Column | str, **options: Any) -> Table:
    """Return an empty table with a rule below its headings and nothing else."""
    return Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), **options)


class Name:
    """The path of a layer in a table: in one line, without its beginning if it is too long.

    If some layers of the table would look the same, the first parts of all are abbreviated to initials and numbers instead, as in
    f.d2.d9.conv1; if they cannot be told apart even then, they are broken into lines behind their dots.
    """

    def __init__(self, path: str, more: str = "", style: str = "", among: Iterable[str] = (), beside: int = 0) -> None:
        """Show `path`, and behind it `more`, which is not shortened.

        `among` are the paths of the other rows, `beside` is the length of the longest `more` of all rows: all names then have
        the same room, and the same form.
        """
        self._path, self._more, self._style = path, more, style
        self._among = tuple(dict.fromkeys((*among, path)))  # the same for all rows, so that it is shortened once
        self._beside = max(beside, len(more))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Smallest and largest width."""
        full = len(self._path) + self._beside
        return Measurement(min(full, _NARROWEST + self._beside), full).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The path, shortened to the available columns."""
        text = _displayed(self._among, options.max_width - self._beside)[self._path]
        yield Text(text, style=self._style, no_wrap=True, overflow="crop").append(self._more, style="dim")


def shortened(path: str, room: int) -> str:
    """Shorten a path to `room` columns: keep whole parts from its end, if one fits."""
    if len(path) <= room:
        return path
    parts = path.split(".")
    for start in range(1, len(parts)):
        end = ".".join(parts[start:])
        if len(end) < room:
            return f"…{end}"
    return f"…{path[max(0, len(path) - room + 1) :]}"


def distinct_names(paths: Sequence[str], room: int) -> list[str]:
    """Shorten the labels of a figure to `room` columns; those that cannot be told apart then stay as they are."""
    shown = _displayed(tuple(paths), room)
    return [path if "\n" in shown[path] else shown[path] for path in paths]


@functools.lru_cache(maxsize=256)
def _displayed(paths: tuple[str, ...], room: int) -> Mapping[str, str]:
    """Every path as a different text that is at most `room` columns wide, all in the same form."""
    for form in (shortened, _initials):
        shown = {path: form(path, room) for path in paths}
        if len({*shown.values()}) == len(shown):
            return shown
    return {path: _broken(path, room) for path in paths}


def _initials(path: str, room: int) -> str:
    """Abbreviate all parts but the last to initials and numbers, and cut off the end if that is not short enough."""
    before, dot, last = path.rpartition(".")
    text = re.sub(r"[^\W\d_]+", lambda word: word[0][0], before) + dot + last
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _broken(path: str, room: int) -> str:
    """Break a path into lines of at most `room` columns, behind dots if its parts are short enough."""
    lines = [""]
    for part in re.findall(r"[^.]*\.|[^.]+", path):
        if len(lines[-1] + part) > room:
            lines.append("")
        pieces = textwrap.wrap(part, max(1, room)) or [""]
        lines[-1] += pieces[0]
        lines += pieces[1:]
    return "\n".join(filter(None, lines))


def first_and_more(names: Sequence[str], among: Iterable[str] = (), beside: int = 0) -> Name:
    """The first of some layers, and the number of the others; `among` and `beside` are as for `Name`."""
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    return Name(names[0] if names else "", more, among=among, beside=beside)


def counted(number: int, what: str) -> str:
    """A number with its noun: 1 layer, 2 layers."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def percent(share: float) -> str:
    """A share, 0 to 1, as a percentage: 63.4%."""
    return f"{share:.1%}"


def shapes_text(shapes: Iterable[Sequence[int]]) -> str:
    """Shapes of tensors: 1x3x224x224 and 1x77."""
    return " and ".join("x".join(map(str, shape)) for shape in shapes)


def took(seconds: Mapping[str, float], total: float | None = None) -> str:
    """A sentence on the time of each phase, and of what is in the `total` beside them."""
    parts = dict(seconds)
    if total is not None and total - sum(parts.values()) > 0.05:
        parts["everything else"] = total - sum(parts.values())
    return f"Took {sum(parts.values()):.1f} s: {', '.join(f'{phase} {part:.1f} s' for phase, part in parts.items())}."


def csv_text(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return `rows` under `header`, with the same line ends on every system and numbers that read back exactly."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
