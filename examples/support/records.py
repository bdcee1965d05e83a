"""The sweep's results: JSON lines, one record per model and back end, written as soon as the model is done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

Record = dict[str, Any]
PACKAGES = ("torch", "timm", "torchvision", "torch-pruning")


def default_path() -> Path:
    """Where results are kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dfpc_plugin" / "support.jsonl"


def versions() -> dict[str, str]:
    """Versions of the packages that can change an outcome; records with other versions do not count as done."""
    return {package: version(package) for package in PACKAGES}


def environment(checkout: Path) -> dict[str, str]:
    """Variables of a process of its own, on one thread, that measures the `dfpc_plugin` in a checkout."""
    path = os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def read(path: Path) -> list[Record]:
    """All records of a file; none if it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def append(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record, allow_nan=False) + "\n")


def latest(path: Path, made_with: Mapping[str, str] | None = None) -> dict[tuple[str, str], Record]:
    """The last record of each (back end, model), of these versions if given; empty if the file does not exist."""
    wanted = [r for r in read(path) if made_with is None or r["versions"] == made_with]
    return {(record["backend"], record["name"]): record for record in wanted}
