"""Write the documentation's page on which models prune, from the results of `sweep.py` and `third_party.py`.

    python examples/support/table.py --date 2026-01-31

The page has a row for each model that was measured with this package, with the result of plain Torch-Pruning.
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

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
COLUMNS = {
    "Model": "---",
    "Prunes": "---",
    "Couplings": "--:",
    "Prunable MACs": "--:",
    "Prunable parameters": "--:",
    "Parameters remaining": "--:",
    "Protected channels": "---",
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
MOSTLY = 0.95
"""The share of the MACs that has to be prunable for a plain yes."""
IN_EVERY_MODEL = re.compile(r"is the model's output|(fixed size in|fixed by the input of) torch\.conv[123]d")
"""Reasons that nearly every model has: its outputs, and the channels of its input."""
PLAIN = {
    r"tensor of fixed size (in|by) torch\.Tensor\.(add_?|sub)\b": "added to positions or a constant",
    r"tensor of fixed size": "multiplied by a constant",
    r"fixed by the input of": "positions of the input",
    r"not produced by a layer": "positions or constants",
    r"per (attention )?head or group": "one value per attention head",
    r"picked (from )?by|read by (a )?fixed": "read by a fixed index",
    r"has one channel": "only one channel",
    r"asks for \d+|needs size \d+": "a size that is fixed in the code",
    r"resamples": "resampled along the channels",
    r"in excess of|left over where": "parts of unequal size",
}
"""Texts for the page, by patterns in reasons, of earlier versions, too; the first match counts."""
REASON_LENGTH = 70
TEXT = """\
# Which models can be pruned

**{ours} models can be pruned; with plain Torch-Pruning, {theirs}.**

The models represent all of timm and torchvision: the smallest model of every file of timm, a second architecture of files with eight or
more, a few models with operators that no other has, and the smallest of every family of torchvision. Their weights are random. 30 % of
the channels of every coupling are removed in one step, ranked by `GroupMagnitudeImportance`.

Column *Prunes*: **yes** means that the pruned model runs, its outputs are finite and have the same shapes, and at least 20 % of the
parameters are removed, within 60 seconds and 6 GiB on one core. **partly** means that less than 95 % of the MACs (and FLOPs) can be
pruned, or that less than 20 % of the parameters are removed. **no** means that it fails. For plain Torch-Pruning, 5 % and 120 seconds
are enough, and it gets two hints: the layers that produce the outputs, and the number of heads of layers named `qkv`. Accuracy is not
measured here.

A model that returns features instead of classes keeps their width, because they are its output. If that is the width of the whole
residual stream, little can be removed.

Column *Protected channels* gives the reasons for which couplings are protected, with the number of couplings. It leaves out the two
that nearly every model has: the model's output, and the channels of its input. [All reasons](couplings.md#protection).

Measured{date} with {versions}:

```console
$ .venv/bin/python examples/support/sweep.py
$ .venv/bin/python examples/support/sweep.py --backend torch_pruning
$ .venv/bin/python examples/support/table.py
```

A *coupling* is a set of channels that can only be removed together. *Prunable* is the share of MACs and of parameters in couplings
that can be pruned.
"""
OTHERS = """
## Other libraries

Each model runs in its own process and was not called before. It is pruned to 60 % of its MACs. Checks: the target is reached; the
outputs are those of the unpruned model with the removed channels set to zero (compared in double precision, relative to the largest
output); pruning nearly every coupling a second time is exact, too; the given model is not changed; and the pruned model can be saved
and loaded.

{table}
The extra `zoo` installs the libraries:

```console
$ .venv/bin/python examples/support/third_party.py
```
"""


def markdown(records: Mapping[tuple[str, str], Record], made_with: Mapping[str, str], date: str = "") -> str:
    """Return the page, from records as `records.latest` returns them; models without one of `dfpc` are left out."""
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
    cells = [list(COLUMNS), list(COLUMNS.values())]
    cells += [_cells(*row) for row in sorted(rows, key=lambda row: row[0]["name"])]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _cells(ours: Record, theirs: Record | None) -> list[str]:
    left = _percent(ours["params_after"], ours["params_before"])
    return [
        f"`{ours['name'].removeprefix(TORCHVISION)}`",
        _answer(ours),
        "-" if ours["couplings"] is None else str(ours["couplings"]),
        _percent(ours["prunable_macs"]),
        _percent(ours["prunable_parameters"]),
        left if ours["status"] == "ok" else FAILURES[ours["status"]],
        _reasons(ours),
        _outcome(theirs),
    ]


def _answer(record: Record) -> str:
    """Whether a model prunes, in one word."""
    if record["status"] == "too_little":
        return "partly"
    if record["status"] != "ok":
        return "no"
    return "partly" if record["prunable_macs"] is not None and record["prunable_macs"] < MOSTLY else "yes"


def _reasons(record: Record) -> str:
    """The reasons why couplings are protected, most frequent first, with numbers of couplings."""
    told = (coupling["reason"] for coupling in record["protected"])
    reasons = Counter(_escaped(_plain(reason)) for reason in told if not IN_EVERY_MODEL.search(reason))
    return "; ".join(f"{reason} ({number})" for reason, number in reasons.most_common())


def _plain(reason: str) -> str:
    """A reason in plain words, without operators and layers; an unknown one stays as it is."""
    return next((words for part, words in PLAIN.items() if re.search(part, reason)), reason)


def _escaped(reason: str) -> str:
    """One short line for a cell of a table, without the paths of layers, so that equal reasons are counted together."""
    general = re.sub(r" in '[^']*'", "", reason)
    short = textwrap.shorten(general, REASON_LENGTH, placeholder=" …")
    return html.escape(short, quote=False).replace("|", "\\|").replace("_", "&#95;")


def _outcome(record: Record | None) -> str:
    if record is None:
        return "not measured"
    if record["status"] == "ok":
        return f"prunes, {_percent(record['params_after'], record['params_before'])} remaining"
    return FAILURES[record["status"]]


def _percent(part: float | None, whole: float | None = 1) -> str:
    return "-" if part is None or not whole else f"{part / whole:.0%}".replace("%", " %")


def _successes(records: Sequence[Record]) -> str:
    return f"{sum(record['status'] == 'ok' for record in records)} of {len(records)}"


def others(records: Sequence[Record]) -> str:
    """Return the section on models of other libraries, from the records of `third_party.py`."""
    return OTHERS.format(table=table_of_others(records, max(record["date"] for record in records)))


def main(results: Path | None = None, third_party: Path | None = None, page: Path = PAGE, date: str = "") -> None:
    """Write the page.

    Args:
        results: The sweep's results; by default in the user's cache.
        third_party: The results of `third_party.py`; by default in the user's cache.
        page: The file to write.
        date: Date of the sweep, for the page.
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
