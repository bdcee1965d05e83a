"""Models of other libraries, each in a process of its own: pruned to a target, compared, saved and loaded.

`python tests/third_party/run_one.py NAME` does the same for one model, and prints tracebacks.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from third_party_models import MODELS, PACKAGES

HERE = Path(__file__).parent
SECONDS = 600


def record_of(name: str) -> dict[str, object]:
    """Look at a model in a new process, which nothing that this one has imported or set can reach."""
    root = str(HERE.parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    ran = subprocess.run(
        [sys.executable, str(HERE / "run_one.py"), name],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.stdout.strip(), f"the process ended with {ran.returncode}:\n{ran.stderr[-3000:]}"
    return json.loads(ran.stdout)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_another_library_prunes(name: str) -> None:
    module = MODELS[name].library
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{PACKAGES[module]} is not installed")
    record = record_of(name)
    failed = {check: outcome for check, outcome in record["checks"].items() if outcome != "ok"}
    assert not failed, "\n".join([*failed.values(), *record["tracebacks"].values()])
    assert record["status"] == "ok"


def test_every_model_names_a_known_library_and_tells_what_it_expects() -> None:
    for name, model in MODELS.items():
        assert model.library in PACKAGES, name
        assert model.forward is not None or not (model.pinned or model.undecided), name
        assert bool(model.note) or not (model.pinned or model.undecided), name


def test_a_model_that_is_not_in_the_table_is_a_failure_with_a_record() -> None:
    record = record_of("no_such_model")
    assert record["status"] == "failed" and "KeyError" in record["checks"]["build"]
