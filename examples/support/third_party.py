"""Prune models of other libraries, and print a Markdown table of the results.

    python examples/support/third_party.py                       # all models that are not in the results file
    python examples/support/third_party.py --only 'hf_*' --retry true
    python examples/support/third_party.py --table true          # only print the table

The models and checks are those of `tests/third_party`; the extra `zoo` installs the libraries. Every model runs in its
own process, and its record is appended as a line of JSON as soon as it is done.
"""

from __future__ import annotations

import datetime
import html
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from jsonargparse import auto_cli
from records import Record, append, default_path, environment, read
from rich.console import Console

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests" / "third_party"
COLUMNS = {
    "Model": "---",
    "Library": "---",
    "Couplings": "--:",
    "Prunable MACs": "--:",
    "MACs left": "--:",
    "Largest difference": "--:",
    "Saved and loaded": "---",
    "Note": "---",
}
LONGEST = 120


def names() -> list[str]:
    """The models of the tests' table."""
    sys.path.insert(0, str(TESTS))
    from third_party_models import MODELS

    return list(MODELS)


def measure(name: str, seconds: float, checkout: Path) -> Record:
    """Check one model in its own process, with the `dfpc_plugin` in `checkout`, and return its record."""
    command = [sys.executable, str(TESTS / "run_one.py"), name]
    date = datetime.date.today().isoformat()
    try:
        ran = subprocess.run(
            command, env=environment(checkout), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return failure(name, f"not done after {seconds:g} s") | {"date": date}
    if not ran.stdout.strip():
        last = (ran.stderr.strip().splitlines() or [""])[-1]
        return failure(name, f"the process ended with {ran.returncode}: {last}") | {"date": date}
    return json.loads(ran.stdout) | {"date": date}


def failure(name: str, error: str) -> Record:
    """The record of a process that ended without a result."""
    return {"name": name, "status": "failed", "checks": {"process": error}, "tracebacks": {}}


def known(path: Path) -> dict[str, Record]:
    """The last record of every model; empty if the file does not exist."""
    return {record["name"]: record for record in read(path)}


def markdown(records: Sequence[Mapping[str, object]], date: str) -> str:
    """Return the table, with the date and the number of models that pass every check."""
    passed = sum(record["status"] == "ok" for record in records)
    rows = [list(COLUMNS), list(COLUMNS.values()), *map(_cells, records)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{passed} of {len(records)} models of other libraries pass every check. Measured on {date}.\n\n{table}"


def _cells(record: Mapping[str, object]) -> list[str]:
    checks = record["checks"]
    assert isinstance(checks, Mapping)
    difference, couplings = record.get("difference"), record.get("couplings")
    return [
        f"`{record['name']}`",
        f"{record.get('library', '-')} {record.get('version', '')}".strip(),
        "-" if couplings is None else str(couplings),
        _percent(record.get("prunable_macs")),
        _percent(record.get("reached")),
        "-" if difference is None else f"{difference:.1e}",
        {"ok": "yes", None: "-"}.get(checks.get("saved"), "no"),
        _note(record, checks),
    ]


def _note(record: Mapping[str, object], checks: Mapping[str, str]) -> str:
    """The failures, or else the model's notes."""
    failed = [f"{check} fails: {outcome}" for check, outcome in checks.items() if outcome != "ok"]
    said = "; ".join(failed or filter(None, [str(record.get("note", "")), str(record.get("approximate", ""))]))
    line = " ".join(said.split())
    short = line if len(line) <= LONGEST else line[: LONGEST - 2].rstrip() + " …"
    return html.escape(short, quote=False).replace("|", "\\|")


def _percent(share: object) -> str:
    return f"{share:.0%}".replace("%", " %") if isinstance(share, float | int) else "-"


def main(
    only: str = "*",
    results: Path | None = None,
    retry: bool = False,
    table: bool = False,
    seconds: float = 600,
    checkout: Path = ROOT,
) -> None:
    """Check the models and print the table.

    Args:
        only: Models to check, as a shell-style pattern, such as `hf_*`.
        results: Where to keep results; by default in the user's cache.
        retry: Check models again that are in the results.
        table: Check nothing, and only print the table of the results.
        seconds: Time limit per model.
        checkout: The directory with the `dfpc_plugin` to measure.
    """
    path = results or default_path().with_name("third_party.jsonl")
    console, found = Console(stderr=True, soft_wrap=True), known(path)
    wanted = [name for name in names() if fnmatch(name, only)]
    for name in wanted:
        if not table and (retry or name not in found):
            found[name] = measure(name, seconds, checkout)
            append(path, found[name])
            failed = [check for check, outcome in found[name]["checks"].items() if outcome != "ok"]
            console.print(name, found[name]["status"], *failed, markup=False)
    records = [found[name] for name in wanted if name in found]
    if not records:
        raise SystemExit(f"'{path}' has no results of '{only}'.")
    print(markdown(records, max(str(record["date"]) for record in records)), end="")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
