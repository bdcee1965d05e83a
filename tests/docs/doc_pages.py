"""What the pages hold, for the tests of them: fenced blocks of code, and the commands in those for a terminal."""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
_FENCE = re.compile(r"^ *```+ *(?P<info>.*?) *$")
_ATTRIBUTES = re.compile(r"\{ (?P<inner>.*) \}")
_TITLE = re.compile(r' *title="(?P<title>[\w.-]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        line: The number of its fence, from one.
        info: What stands behind the fence.
        code: What is inside, without the indentation of the fence.
    """

    line: int
    info: str
    code: str

    @property
    def title(self):
        """The file that the block is to be written to, or None."""
        found = _TITLE.search(self.info)
        return found["title"] if found else None

    @property
    def words(self):
        """The language, and then whatever else is said: `not-run`, `run`."""
        inner = _ATTRIBUTES.fullmatch(_TITLE.sub("", self.info))
        return [word.removeprefix(".") for word in (inner["inner"] if inner else self.info).split()]

    @property
    def end(self):
        """The number of the fence that ends it."""
        return self.line + self.code.count("\n") + 1

    @property
    def language(self):
        return self.words[0] if self.words else ""


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        line: Where it is.
        words: The program and its arguments.
        target: The file that its output goes to, or None.
        shown: What the page says that it prints.
    """

    line: int
    words: tuple[str, ...]
    target: str | None
    shown: tuple[str, ...] = ()


def blocks(page: Path) -> Iterator[Block]:
    """Yield every fenced block of a page."""
    start, info, inside = 0, "", []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if not start and fence:
            start, info, inside = number, fence["info"], []
        elif start and fence and not fence["info"]:
            yield Block(start, info, dedent("\n".join(inside)) + "\n")
            start = 0
        elif start:
            inside.append(line)
    assert not start, f"{page}: the block in line {start} does not end"


def write_titled(page: Path, directory: Path) -> list[str]:
    """Write the blocks of a page that are files into `directory`, and return their names."""
    titled = [block for block in blocks(page) if block.title]
    for block in titled:
        (directory / block.title).write_text(block.code, encoding="utf-8")
    return [block.title for block in titled]


def commands(page: Path, *, marked: str | None = None) -> Iterator[Command]:
    """Yield the commands in blocks for a terminal, or in those among them that are marked with a word."""
    for block in blocks(page):
        if block.language in ("console", "sh") and (marked is None or marked in block.words):
            yield from _commands(block)


def _commands(block: Block) -> Iterator[Command]:
    found: list[tuple[int, str, list[str]]] = []
    lines = block.code.replace("\\\n", "").splitlines()
    for number, line in enumerate(lines, start=block.line + 1):
        if block.language == "sh" or line.startswith("$ "):
            found.append((number, line.removeprefix("$ "), []))
        elif found:
            found[-1][2].append(line)
    for number, line, shown in found:
        *before, last = _parted(shlex.split(line, comments=True))
        for words in before:
            yield _command(number, words, ())
        yield _command(number, last, shown)


def _parted(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _command(line: int, words: list[str], shown) -> Command:
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    target = None
    if ">" in words:
        words, target = words[: words.index(">")], words[words.index(">") + 1]
    return Command(line, tuple(words), target, tuple(shown))


_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")


def missing(shown: Iterable[str], printed: str, *, numbers: bool = False) -> list[str]:
    """Return the lines that a page shows and that were not printed in this order; `...` stands for any lines.

    Args:
        shown: What the page says.
        printed: What came out.
        numbers: Whether numbers must be about the same, too: within 2, or a tenth; but for seconds.
    """
    rest = iter(printed.splitlines())
    return [line for line in shown if line != "..." and not any(_alike(line, other, numbers) for other in rest)]


def _alike(one: str, other: str, numbers: bool) -> bool:
    """Whether two lines are the same but for rules, widths and numbers."""
    one, other = (re.sub(r"\d[\d.]* s\b", "some s", line) for line in (one, other))
    texts = [" ".join(re.sub("[─━]+", "#", _NUMBER.sub("#", line)).split()) for line in (one, other)]
    if texts[0] != texts[1] or not numbers:
        return texts[0] == texts[1]
    pairs = zip(
        *([float(found.rstrip(".,").replace(",", "")) for found in _NUMBER.findall(line)] for line in (one, other)),
        strict=True,
    )
    return all(abs(a - b) <= max(2, 0.1 * abs(a)) for a, b in pairs)
