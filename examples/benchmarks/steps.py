"""Say what a benchmark is at: a line for each step, as bars are seen neither in pipes nor in files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console

T = TypeVar("T")


def steps(items: Sequence[T], title: str, console: Console) -> Iterator[T]:
    """Yield the items, and print each before its turn."""
    for number, item in enumerate(items, 1):
        name = "" if isinstance(items, range) else f": {item[0] if isinstance(item, tuple) else item}"
        console.print(f"{title}, {number} of {len(items)}{name} ...", markup=False, highlight=False)
        yield item
