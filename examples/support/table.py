"""Write the documentation's page on which models prune, from what `sweep.py` and `third_party.py` have measured.

    python examples/support/table.py --date 2026-01-31

The page has a row for each model that was measured with this package, and beside it what plain Torch-Pruning does.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jsonargparse import auto_cli
from records import Record, default_path, latest, versions

from dfpc_plugin.files import write_text
from models import TORCHVISION
from third_party import known as known_of_others
from third_party import markdown as table_of_others

__all__ = ["markdown"]

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
COLUMNS = {
    "Model": "---",
    "Couplings": "--:",
    "Prunable MACs": "--:",
    "Prunable parameters": "--:",
    "Parameters left": "--:",
    "Not pruned, and why": "---",
    "Plain Torch-Pruning": "---",
}
FAILURES = {
    "trace_failed": "fails to find channels",
    "prune_failed": "fails to prune",
    "forward_failed": "breaks the model",
    "timeout": "does not end in time",
    "too_little": "removes too little",
    "nonfinite": "breaks the outputs",
    "memory": "takes too much memory",
}
REASON_LENGTH = 70
TEXT = """\
# Which models prune

**{ours} models prune; with plain Torch-Pruning, {theirs}.**

The models stand for all of timm and torchvision: the smallest of every model file of timm, of files with eight or
more also the smallest of another architecture, a few with operators that no other has, and the smallest of every
family of torchvision. Their weights are random. 30 % of the channels of every coupling are removed in one step, as
`GroupMagnitudeImportance` ranks them. A model prunes if the smaller one runs, its outputs have the shapes that they
had and are finite, and at least 20 % of the parameters are gone, within 60 seconds and 6 GiB on one core. For plain
Torch-Pruning 5 % and 120 seconds are enough, and it is told what can be read off any model: which layers write the
outputs, and how many heads a layer named `qkv` serves. Whether a pruned model is still accurate is another question.

A model that returns features instead of classes keeps their width, as they are its output; where that is the width of
the whole residual stream, too little is left to remove.

Measured{date} with {versions}:

```console
$ .venv/bin/python examples/support/sweep.py
$ .venv/bin/python examples/support/sweep.py --backend torch_pruning
$ .venv/bin/python examples/support/table.py
```

A *coupling* is a set of channels that can only be removed together. *Prunable* is the share of multiply-accumulates
(MACs) and of parameters that lies in couplings from which channels can be removed.
"""
OTHERS = """
## Other libraries

Each model runs in a process of its own and was not called before. It is pruned to 60 % of its MACs. Checks: the target
is reached; the outputs are those of the unpruned model with the removed channels set to zero (compared in double
precision, relative to the largest output); a second cut that touches nearly every coupling is exact, too; the model
given is left as it was; and the pruned one can be saved and loaded.

{table}
The extra `zoo` installs the libraries:

```console
$ .venv/bin/python examples/support/third_party.py
```
"""


def markdown(records: Mapping[tuple[str, str], Record], made_with: Mapping[str, str], date: str = "") -> str:
    """Return the page.

    Args:
        records: By (back end, model), as `records.latest` reads them; models without one of `dfpc` are left out.
        made_with: Versions of the packages.
        date: When they were measured; left out if empty.
    """
    ours = {name: record for (backend, name), record in records.items() if backend == "dfpc"}
    rows = [(record, records.get(("torch_pruning", name))) for name, record in ours.items()]
    text = TEXT.format(
        ours=_successes(list(ours.values())),
        theirs=_successes([theirs for _, theirs in rows if theirs]),
        date=f" on {date}" if date else "",
        versions=", ".join(f"{package} {number}" for package, number in made_with.items()),
    )
    for origin in ("timm", "torchvision"):
        members = [row for row in rows if row[0]["name"].startswith(TORCHVISION) == (origin == "torchvision")]
        if members:
            text += f"\n## {origin}\n\n{_table(members)}"
    return text


def _table(rows: Iterable[tuple[Record, Record | None]]) -> str:
    """One line per model, by name."""
    cells = [list(COLUMNS), list(COLUMNS.values())]
    cells += [_cells(*row) for row in sorted(rows, key=lambda row: row[0]["name"])]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _cells(ours: Record, theirs: Record | None) -> list[str]:
    left = _percent(ours["params_after"], ours["params_before"])
    return [
        f"`{ours['name'].removeprefix(TORCHVISION)}`",
        "-" if ours["couplings"] is None else str(ours["couplings"]),
        _percent(ours["prunable_macs"]),
        _percent(ours["prunable_parameters"]),
        left if ours["status"] == "ok" else FAILURES[ours["status"]],
        _reasons(ours),
        _outcome(theirs),
    ]


def _reasons(record: Record) -> str:
    """The distinct reasons why couplings are protected, most frequent first, and how many couplings each holds for."""
    reasons = Counter(_escaped(coupling["reason"]) for coupling in record["protected"])
    return "; ".join(f"{reason} ({number})" for reason, number in reasons.most_common())


def _escaped(reason: str) -> str:
    """One short line that a cell of a table can hold, without the paths of layers, so that like is counted with like."""
    general = re.sub(r" in '[^']*'", "", reason)
    short = textwrap.shorten(general, REASON_LENGTH, placeholder=" …")
    return html.escape(short, quote=False).replace("|", "\\|")


def _outcome(record: Record | None) -> str:
    if record is None:
        return "not measured"
    if record["status"] == "ok":
        return f"prunes, {_percent(record['params_after'], record['params_before'])} left"
    return FAILURES[record["status"]]


def _percent(part: float | None, whole: float | None = 1) -> str:
    return "-" if part is None or not whole else f"{part / whole:.0%}".replace("%", " %")


def _successes(records: Sequence[Record]) -> str:
    return f"{sum(record['status'] == 'ok' for record in records)} of {len(records)}"


def others(records: Sequence[Record]) -> str:
    """Return the section on models of other libraries; `records` are those of `third_party.py`."""
    return OTHERS.format(table=table_of_others(records, max(record["date"] for record in records)))


def main(results: Path | None = None, third_party: Path | None = None, page: Path = PAGE, date: str = "") -> None:
    """Write the page.

    Args:
        results: What the sweep has written; in the user's cache if not given.
        third_party: What `third_party.py` has written; in the user's cache if not given.
        page: Where to write it.
        date: When the sweep was made, to be named on the page.
    """
    path = results or default_path()
    found = latest(path, versions())
    if not any(backend == "dfpc" for backend, _ in found):
        raise SystemExit(f"'{path}' has no results of the installed versions; run examples/support/sweep.py first.")
    text = markdown(found, versions(), date)
    records = list(known_of_others(third_party or default_path().with_name("third_party.jsonl")).values())
    write_text(page, text + others(records) if records else text)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
