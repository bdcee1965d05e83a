"""Prune 30 % of the channels of the smallest models of timm and torchvision, and record the outcome for each.

    python examples/support/sweep.py                                # this package
    python examples/support/sweep.py --backend torch_pruning        # plain Torch-Pruning, for comparison
    python examples/support/sweep.py --only 'vit_*' --retry true    # those that failed, again

Every model runs in its own process, with limits of time and memory. Results are stored after every model, so that an
interrupted sweep resumes; `table.py` writes the documentation's page from them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from jsonargparse import auto_cli
from records import Record, append, default_path, environment, latest, versions
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models import names

Backend = Literal["dfpc", "torch_pruning"]
SECONDS: dict[str, float] = {"dfpc": 60, "torch_pruning": 120}
ALLOWANCE = 300  # seconds that are not counted: importing, building, and calling the unpruned model
SCRIPT = Path(__file__).with_name("one_model.py")
ROOT = Path(__file__).parents[2]
FIELDS: Record = {
    "error": "",
    "params_before": None,
    "params_after": None,
    "macs_before": None,
    "macs_after": None,
    "seconds": None,
    "peak_mib": None,
    "couplings": None,
    "protected": [],
    "prunable_macs": None,
    "prunable_parameters": None,
}


def measure(name: str, backend: str) -> Record:
    """Prune one model in its own process and return its record."""
    options = [f"--name={name}", f"--backend={backend}", f"--seconds={SECONDS[backend]}"]
    command = [sys.executable, str(SCRIPT), *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(ROOT), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            output, errors = process.communicate(timeout=SECONDS[backend] + ALLOWANCE)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            output += json.dumps({"status": "timeout", "error": "the process had to be ended"})
    last_words = (errors.strip().splitlines() or [""])[-1]
    ended = f"the process ended with {process.returncode}: {last_words}"[:300]
    return {"name": name, "backend": backend, "versions": versions(), **as_record(output, ended)}


def as_record(output: str, ended: str) -> Record:
    """Combine the process's output; `ended` is the error if it ended before it reported a status."""
    said: Record = {}
    for line in output.splitlines():
        if line.startswith("{"):
            said |= json.loads(line)
    stage = said.pop("stage", "build")
    unsaid = {"status": "trace_failed" if stage == "build" else f"{stage}_failed", "error": ended}
    return {"status": "", **FIELDS, **(unsaid if "status" not in said else {}), **said}


def sweep(
    wanted: Iterable[str],
    backend: str,
    results: Path,
    *,
    jobs: int = 1,
    retry: bool = False,
    console: Console | None = None,
) -> list[Record]:
    """Measure those of `wanted` that are not in `results`, and return the records of all.

    With `retry`, those that are not ok are measured again. `jobs` models run at a time; results are appended as they
    come.
    """
    wanted = list(wanted)
    known = latest(results, versions())
    final = {name for (kind, name), r in known.items() if kind == backend and (r["status"] == "ok" or not retry)}
    missing = [name for name in wanted if name not in final]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task(backend, total=len(wanted), completed=len(wanted) - len(missing))
        try:
            for future in as_completed([pool.submit(measure, name, backend) for name in missing]):
                record = future.result()
                append(results, record)
                known[backend, record["name"]] = record
                progress.advance(task)
                progress.console.print(record["name"], record["status"], record["error"], markup=False)
        except BaseException:  # also on Ctrl-C, start no further model
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [known[backend, name] for name in wanted]


def main(
    backend: Backend = "dfpc", only: str = "*", jobs: int = 1, results: Path | None = None, retry: bool = False
) -> None:
    """Run the sweep.

    Args:
        backend: What prunes: this package or plain Torch-Pruning.
        only: Models to prune, as a shell-style pattern, such as `torchvision/*`.
        jobs: Number of models to prune at a time; each takes one core and up to 6 GiB.
        results: Where to keep results; by default in the user's cache.
        retry: Measure models again that have failed before.
    """
    wanted = [name for name in names() if fnmatch(name, only)]
    console = Console(soft_wrap=True)
    path = results or default_path()
    records = sweep(wanted, backend, path, jobs=jobs, retry=retry, console=console)
    for status, number in Counter(record["status"] for record in records).most_common():
        console.print(f"{number:4d} {status}")
    console.print(f"Results: {path}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
