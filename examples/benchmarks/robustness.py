"""Attack saving and loading many times, and count failures: `python examples/benchmarks/robustness.py NAME TRIES`.

Every try has to succeed, or fail with an error of this package, within five seconds and a gibibyte. It must run no code
from a file, and accept only what was saved. Prints one line of JSON per campaign, with every failure.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from attacks import artifacts, checkpoints, files
from stops import full, interrupts, kills, moments, threads

BYTES = 2**30

CAMPAIGNS: dict[str, tuple[Callable[[int, Path], Iterator[str | None]], int]] = {
    "artifacts": (artifacts, 1000),
    "checkpoints": (checkpoints, 300),
    "files": (files, 200),
    "kills": (kills, 300),
    "moments": (moments, 100),
    "full": (full, 300),
    "interrupts": (interrupts, 1000),
    "threads": (threads, 28),
}
"""Campaigns by name, with the usual number of tries."""


def campaign(name: str, tries: int | None = None) -> dict:
    """Run a campaign and return its results."""
    run, usual = CAMPAIGNS[name]
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(run(tries or usual, Path(place)))
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    faults = [fault for fault in found if fault] + ([f"{grown / 2**30:.1f} GiB more memory"] if grown > BYTES else [])
    return {
        "campaign": name, "tries": len(found), "failures": len(faults), "seconds": round(time.monotonic() - begun, 1),
        "mib": round(grown / 2**20), "faults": faults[:20],
    }  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(1)
    for chosen in sys.argv[1:2] or CAMPAIGNS:
        print(json.dumps(campaign(chosen, int(sys.argv[2]) if len(sys.argv) > 2 else None)), flush=True)
