"""On a GPU, tensors on the wrong device are errors; here is none, so a device is pretended: see `fake_device`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration

TESTS = Path(__file__).parent


@pytest.mark.timeout(900)  # half a minute on an idle core
@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch has no devices written in Python",
)
def test_models_on_a_device_are_pruned_and_repaired_as_on_the_cpu():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))}
    done = subprocess.run(
        [sys.executable, TESTS / "device_child.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 25
    assert [case for case in found if not (isinstance(case[2], float) and case[2] <= 1e-4)] == []
