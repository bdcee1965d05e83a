"""Prune models of other libraries, and print the table of how that ended, in Markdown.

    python examples/support/third_party.py                       # all models, those of the results file left out
    python examples/support/third_party.py --only 'hf_*' --retry true
    python examples/support/third_party.py --table true          # only print what is known

The models and checks are those of `tests/third_party`; libraries come with the extra `zoo`. Every model has a process of
its own, and its record is kept as a line of JSON as soon as it is done.
"""

from __future__ import annotations

import datetime
import html
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from jsonargparse import auto_cli
from records import Record, append, default_path
from rich.console import Console

__all__ = ["markdown"]

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
    """The models of the table that the tests have."""
    sys.path.insert(0, str(TESTS))
    from third_party_models import MODELS

    return list(MODELS)


def measure(name: str, seconds: float, checkout: Path) -> Record:
    """Look at one model in a process of its own and return its record.

    Args:
        name: A model of the table.
        seconds: How long the process may take.
        checkout: The directory that holds the `dfpc_plugin` to measure.
    """
    path = os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, str(TESTS / "run_one.py"), name]
    date = datetime.date.today().isoformat()
    try:
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return failure(name, f"not done after {seconds:g} s") | {"date": date}
    if not ran.stdout.strip():
        last = (ran.stderr.strip().splitlines() or [""])[-1]
        return failure(name, f"the process ended with {ran.returncode}: {last}") | {"date": date}
    return json.loads(ran.stdout) | {"date": date}


def failure(name: str, error: str) -> Record:
    """The record of a process that has not told how it went."""
    return {"name": name, "status": "failed", "checks": {"process": error}, "tracebacks": {}}


def known(path: Path) -> dict[str, Record]:
    """The last record of every model; a file that does not exist holds none."""
    if not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {record["name"]: record for record in records}


def markdown(records: Sequence[Mapping[str, object]], date: str) -> str:
    """Return the table, with the date and how many models pass every check."""
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
    """What fails, or else what is to be known of the model."""
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
    """Look at the models and print the table.

    Args:
        only: Models to look at, as a shell-style pattern, such as `hf_*`.
        results: Where to keep results; in the user's cache if not given.
        retry: Look again at models that are in the results.
        table: Look at nothing, and print the table of what is known.
        seconds: How long one model may take.
        checkout: The directory that holds the `dfpc_plugin` to measure.
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
